# The files that an experiment consists of.
def policies():
    """The folder of every evaluated policy under `evaluations/`."""
    before = [
        f"{size}/{stage}"
        for size in CONFIG.sizes
        for stage in stages(CONFIG)
        if "training" in CONFIG.parts
    ]
    return before + [run.path for run in RUNS]


def all_evaluations():
    return [
        f"{RESULTS}/evaluations/{policy}/{name}.json"
        for policy in policies()
        for name in CONFIG.benchmarks
    ]


def of_all_runs(file):
    return [f"{RESULTS}/runs/{run.path}/{file}" for run in RUNS]


def all_throughput():
    return [
        f"{RESULTS}/throughput/{size}/skip{skip}.json"
        for size in CONFIG.sizes
        for skip in SKIPS
        if "throughput" in CONFIG.parts
    ]


def all_step_speed():
    return [
        f"{RESULTS}/step_speed/{size}/skip{skip}.json"
        for size in CONFIG.sizes
        for skip in SKIPS
        if skip and "step_speed" in CONFIG.parts
    ]


def all_gradients():
    return [
        f"{RESULTS}/gradients/{size}/skip{skip}.json"
        for size in CONFIG.sizes
        for skip in SKIPS
        if skip and "gradients" in CONFIG.parts
    ]


def all_completion_gradients():
    return [
        f"{RESULTS}/completion_gradients/{size}/skip{skip}.json"
        for size in CONFIG.sizes
        for skip in SKIPS
        if skip and "gradients" in CONFIG.parts and CONFIG.gradients.by_completion
    ]


def all_nestability():
    return [
        f"{RESULTS}/nestability/{stage}/{size}/skip{skip}-{strategy}-border{border}.json"
        for stage in measured_models(CONFIG)
        for size in CONFIG.sizes
        for skip, strategy, border in layer_choices(CONFIG)
    ]


def rules_of_figures():
    return [
        f"{RESULTS}/figures/{name}.{kind}"
        for name in asked(FIGURES, CONFIG)
        for kind in FIGURE_KINDS
    ]


def rules_of_pages():
    return [f"{RESULTS}/pages/{name}.html" for name in asked(PAGES, CONFIG)]


# The report shows the tables as HTML; the other kinds are plain outputs.
PLAIN_TABLE_KINDS = [kind for kind in TABLE_KINDS if kind != "html"]


def rules_of_tables():
    tidy = (*TIDY_TABLES, "verdicts", "cells")
    return [f"{RESULTS}/tables/{name}.csv" for name in tidy] + [
        f"{RESULTS}/tables/{name}.{kind}"
        for name in (*PRESENTATION_TABLES, "claims")
        for kind in TABLE_KINDS
    ]
