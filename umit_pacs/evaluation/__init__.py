"""How good a checkpoint is: samples asked through the served path, graded, and measured with 95 % intervals.

    asking.py        samples -> the engine's answers, prepared and asked as the node does it
    grading.py       an answer against the truth: what was right, wrong, measured
    figures.py       grades -> figures per task, language, modality and finding
    probes.py        blank, mirrored and foreign images, rephrased questions, "none of the above"
    report.py        one HTML file that a person can read, plots inside

and the measures themselves: `ranking`, `boxes`, `landmarks`, `short_answers`, `text_overlap`, `report_findings`,
`calibration`, `bootstrap`. They need the extra `evaluation`; the node never imports them.
"""
