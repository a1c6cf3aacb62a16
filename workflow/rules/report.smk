# Tidy tables from all results, then figures, tables for people, and the claims.
rule collect:
    input:
        SOURCES["collect"],
        all_evaluations(),
        all_metrics(),
        all_throughput(),
    output:
        expand(f"{RESULTS}/tables/{{table}}.csv", table=TIDY_TABLES),
    log:
        f"{RESULTS}/logs/report/collect.log",
    params:
        settings=CONFIG.canonical_json(),
    message:
        "Collect all results into tidy tables"
    shell:
        "{PYTHON} -m nested_reft collect --settings {params.settings:q} --root {RESULTS} 2> {log}"


rule presentation_tables:
    input:
        SOURCES["tables"],
        expand(f"{RESULTS}/tables/{{table}}.csv", table=TIDY_TABLES),
    output:
        expand(
            f"{RESULTS}/tables/{{table}}.{{kind}}",
            table=PRESENTATION_TABLES,
            kind=["csv", "md"],
        ),
    log:
        f"{RESULTS}/logs/report/tables.log",
    params:
        settings=CONFIG.canonical_json(),
    message:
        "Tables: accuracy, speed-up, equivalence"
    shell:
        "{PYTHON} -m nested_reft tables --settings {params.settings:q} --root {RESULTS} 2> {log}"


rule claims:
    input:
        SOURCES["claims"],
        expand(
            f"{RESULTS}/tables/{{table}}.csv", table=["runs", "training", "throughput"]
        ),
    output:
        expand(f"{RESULTS}/tables/claims.{{kind}}", kind=["csv", "md"]),
    log:
        f"{RESULTS}/logs/report/claims.log",
    params:
        settings=CONFIG.canonical_json(),
        config_file=CONFIG_OPTION,
    message:
        "Claims and verdicts"
    shell:
        "{PYTHON} -m nested_reft claims --settings {params.settings:q} --root {RESULTS} {params.config_file} 2> {log}"


rule figure:
    input:
        STYLE,
        lambda wildcards: source(f"report/{FIGURES[wildcards.figure].module}.py"),
        lambda wildcards: [
            f"{RESULTS}/tables/{table}.csv"
            for table in FIGURES[wildcards.figure].tables
        ],
    output:
        report(
            f"{RESULTS}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category=lambda wildcards: FIGURES[wildcards.figure].category,
            labels={"figure": "{figure}"},
        ),
        f"{RESULTS}/figures/{{figure}}.svg",
    log:
        f"{RESULTS}/logs/report/figure_{{figure}}.log",
    params:
        settings=CONFIG.canonical_json(),
        caption=lambda wildcards: FIGURES[wildcards.figure].caption,
    message:
        "Figure: {wildcards.figure}"
    shell:
        "{PYTHON} -m nested_reft figure {wildcards.figure} --settings {params.settings:q} --root {RESULTS} 2> {log}"


rule figures:
    input:
        rules_of_figures(),


rule tables:
    input:
        rules_of_tables(),
