"""Hand a finished run over to other libraries: its data, its models, and a script that trains on them.

`export_trl` is imported from `rlhf_mini.export.trl`, because it needs torch; this package itself stays light.
"""
