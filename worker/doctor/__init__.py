"""`sagrada doctor`: what is wrong with this machine for a worker, and how to mend it. Nothing is started or changed.

Torch is not imported: versions come from the installed packages' metadata, cards from their drivers' tools.
"""
