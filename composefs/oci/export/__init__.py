"""Images on their way out of a repository: to layouts, archives, directories and registries.

`composefs.oci.export.exporter.export_image` does it all.
"""
