"""A client of registries, over HTTP: pulls and pushes, as the OCI distribution specification has them.

    client | upload   the calls of the API; foreign: blobs that are elsewhere
    download          a blob in order, whatever happens to connections
    session           requests that are let in, led on, and repeated where that may help
    tokens            what lets us in; challenge: what is asked for
    connection        one request and its answer; pool, tls, watchdog: the connections
    endpoint          where a repository is, and what is needed to talk to it: values, made by who knows the host

Everything else here is no I/O.  Secrets are in no error, no log and no `repr`.
"""
