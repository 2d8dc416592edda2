"""The checks for the first card of a kind; `sagrada doctor --first-card` runs each in a process of its own.

What a stand-in cannot prove, these prove where there is a card. On a CPU they run too, which says that they can fail
and pass.
"""
