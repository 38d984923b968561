"""The commands of /mf/bin/quarantine, a module each, called with its parsed options: ``run(args, context)``.

``cli`` imports a module when its command is called, so that ``list`` and ``show`` start fast.
"""
