"""The experiment's configuration: typed, frozen, strict about keys.

`experiment` holds the whole experiment and its run table. The settings of a part, with what its rule hands to its
sub-command, are in the module of that name, so that a job depends on its own settings only: `sources` (problems and
models), `sampling` (prompt and sampling), `method` (corrections and layer selections, from their registries),
`training`, `evaluation`, `throughput`, `gradients`; `resources` is what jobs ask for of a scheduler. `jobs` makes what
each rule hands over, `strict` and `errors` check. The text under each key is what `config/README.md` says of it.
"""
