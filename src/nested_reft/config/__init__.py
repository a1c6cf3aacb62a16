"""The experiment's configuration: typed, frozen, strict about keys.

`experiment` holds the whole experiment and its run table. The settings of a part, with what its rule passes to its
sub-command, are in the module of that name, so that a job depends only on its own settings: `sources` (problems and
models), `sampling` (prompt and sampling), `method` (corrections and layer selections, from their registries),
`training`, `evaluation`, `throughput`, `gradients`; `resources` is what jobs request from a scheduler. `jobs` makes
what each rule passes on, `strict` and `errors` check. `records/` has the schemas of the result files, one module per
kind. The text under each key is its entry in `config/README.md`.
"""
