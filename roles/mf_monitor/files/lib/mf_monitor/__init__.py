"""The external monitor: probes the fleet from outside, keeps its history, notifies operators.

::

    engine ─→ schedule, probing      when, and with what result
           ─→ judging                decide what is wrong; pure
           ─→ notifying              decide which operators to notify, and send
           ─→ recorder               remember
    publisher ─→ page ─→ store       what the page shows

It runs on a machine outside the fleet and depends on nothing in it.
"""
