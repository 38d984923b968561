"""Put a release of the /mf tree on a host: compare, stage, validate, make current, undo.

Runs on the managed host inside the module mf_deploy, under the host's Python. Arrows point down only:
``release -> commit, stage, drift, facts -> host, journal, manifest -> layout``.
"""
