"""The external monitor: probes the fleet from outside, keeps its history, notifies people.

::

    engine ─→ schedule, probing      when, and with what result
           ─→ judging, alerts        decide; pure
           ─→ recorder, outbox       remember and act
    publisher ─→ page ─→ store       what the page shows

It runs on a machine outside the fleet and depends on nothing in it. May use what Debian packages for that machine
(dnspython, Apprise); the core of the package never imports it.
"""
