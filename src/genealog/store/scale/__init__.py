"""A log in PostgreSQL and object storage: any number of machines append, one at a time integrates and signs.

    PostgreSQL   who may append and where; batches that are not in tiles yet; marks; the signed head (`postgres`)
    bucket       <prefix>/<log>/tile/…, tile/entries/…, checkpoint: a C2SP tlog-tiles tree for any client (`objects`)

An append is one transaction, and durable when it commits (`log`). The integrator turns batches into tiles and commits
the head by compare-and-swap (`integrator`). What of that is the truth, and in which order it is written: `ports`.
Nothing here is imported unless a store's URL asks for it: psycopg and obstore are optional libraries.
"""
