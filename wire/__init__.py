"""What crosses between processes: jobs, events, keys, the ledger, the queue's transport, the registry.

Every other room imports this one; it imports none of them.
"""
