"""How a release of the /mf tree is put on a host: compared, staged, validated, made current, undone.

Runs on the managed host inside the module mf_deploy, under the host's Python. Arrows point down only:
``release -> commit, stage, drift, look -> host, journal, manifest -> layout``.
"""
