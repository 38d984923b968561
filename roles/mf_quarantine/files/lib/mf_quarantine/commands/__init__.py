"""The commands of /mf/bin/quarantine, a module each, with its options already read: ``run(args, context)``.

``cli`` imports a module when its command is called: ``list`` and ``show`` need few others, and an operator waits.
"""
