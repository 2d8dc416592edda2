"""What a person touches: the command line, `sagrada up` and the Python client.

It starts the other rooms as processes and imports none of them but `wire`.
"""

__version__ = "0.1.0"
