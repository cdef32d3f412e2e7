-- Orthanc acts on the AI node's rejection notes (IHE IOCM): what a note names is deleted, the note itself stays.
--
-- Only a note that the node itself sent counts, and only objects that the node made are deleted: neither an image nor a
-- person's report can be lost by it. On the node: `umit-pacs peers add ... --retire iocm`.
local NODE = 'UMIT'
local MANUFACTURER = 'UMIT PACS'
-- PS3.16 CID 7010: quality, patient safety, incorrect modality worklist entry, data retention policy expired.
local REJECTIONS = { ['113001'] = true, ['113037'] = true, ['113038'] = true, ['113039'] = true }

local function delete_own(sop_instance_uid)
  for _, found in ipairs(ParseJson(RestApiPost('/tools/lookup', sop_instance_uid))) do
    if found['Type'] == 'Instance' then
      local tags = ParseJson(RestApiGet('/instances/' .. found['ID'] .. '/simplified-tags'))
      if tags['Manufacturer'] == MANUFACTURER then RestApiDelete('/instances/' .. found['ID']) end
    end
  end
end

function OnStoredInstance(instance_id, tags, metadata, origin)
  if tags['Modality'] ~= 'KO' or origin['RemoteAet'] ~= NODE then return end
  local note = ParseJson(RestApiGet('/instances/' .. instance_id .. '/simplified-tags'))
  local title = (note['ConceptNameCodeSequence'] or {})[1]
  if title == nil or not REJECTIONS[title['CodeValue']] then return end
  for _, study in ipairs(note['CurrentRequestedProcedureEvidenceSequence']) do
    for _, series in ipairs(study['ReferencedSeriesSequence']) do
      for _, reference in ipairs(series['ReferencedSOPSequence']) do
        delete_own(reference['ReferencedSOPInstanceUID'])
      end
    end
  end
end
