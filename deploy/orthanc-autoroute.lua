-- Orthanc pushes a study to the AI node once it has been quiet for StableAge seconds.
--
-- OnStableStudy fires again when the drafts come back into the study, so two things are kept out: series that the node
-- itself sent, and instances that were pushed before (user metadata "SentToAI", number 4001 in orthanc.json).
local NODE = 'UMIT'
local ANALYSED = { CR = true, DX = true, CT = true, MR = true, PT = true }

local function is_new(instance_id)
  for _, name in ipairs(ParseJson(RestApiGet('/instances/' .. instance_id .. '/metadata'))) do
    if name == 'SentToAI' then return false end
  end
  return RestApiGet('/instances/' .. instance_id .. '/metadata/RemoteAET') ~= NODE
end

function OnStableStudy(study_id, tags, metadata)
  local resources = {}
  for _, series_id in ipairs(ParseJson(RestApiGet('/studies/' .. study_id))['Series']) do
    local series = ParseJson(RestApiGet('/series/' .. series_id))
    if ANALYSED[series['MainDicomTags']['Modality']] then
      for _, instance_id in ipairs(series['Instances']) do
        if is_new(instance_id) then
          table.insert(resources, instance_id)
          RestApiPut('/instances/' .. instance_id .. '/metadata/SentToAI', 'yes')
        end
      end
    end
  end
  if #resources > 0 then
    RestApiPost('/modalities/' .. NODE .. '/store', DumpJson({ Resources = resources, Synchronous = false }, true))
  end
end
