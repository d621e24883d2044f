"""OCI images: where they come from, what they consist of, and how they get into a repository.

Source: OCI image specification 1.1; names of streams and tags as in composefs-rs, doc/oci.md.
"""
