"""The external monitor: probes the fleet from outside, keeps its history, tells people.

::

    engine ─→ probes (tcp smtp ssh http dns), uplink, hosthealth   look
           ─→ states, causes, alerts                               decide; pure
           ─→ store, outbox                                        remember and act
    snapshot ─→ store                                              what the page shows

It runs on a machine outside the fleet and depends on nothing in it. May use what Debian packages for that machine
(dnspython, Apprise); the core of the package never imports it.
"""
