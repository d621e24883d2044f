"""Where images come from: layouts, archives, registries, stores of other programs.

A module a transport; `composefs.oci.sources.opening` knows which.
"""
