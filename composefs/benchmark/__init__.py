"""How fast this machine does the parts of an import, and what that makes of a whole one.

The parts are timed one by one, with the functions that an import uses; `estimate` puts them together.
"""
