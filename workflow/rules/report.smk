# Tidy tables from all results, then figures, tables for people, and the claims.
# All of them read the experiment's settings from a file: as a parameter, they would be on every page of the report.
SETTINGS = f"{RESULTS}/settings.json"


rule settings:
    output:
        SETTINGS,
    log:
        f"{RESULTS}/logs/report/settings.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=whole_config,
    message:
        "Settings of the experiment"
    shell:
        "printf '%s\\n' {params.settings:q} > {output} 2> {log}"


rule collect:
    input:
        SETTINGS,
        sources("collect"),
        all_evaluations(),
        of_all_runs("metrics.jsonl"),
        of_all_runs("manifest.json"),
        all_throughput(),
        all_step_speed(),
        all_gradients(),
        all_completion_gradients(),
        all_nestability(),
        f"{RESULTS}/exact.json",
    output:
        expand(f"{RESULTS}/tables/{{table}}.csv", table=TIDY_TABLES),
    log:
        f"{RESULTS}/logs/report/collect.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/collect.tsv"
    conda:
        ENVIRONMENT
    params:
        root=lambda wildcards, output: Path(output[0]).parents[1].as_posix(),
    message:
        "Collect all results into tidy tables"
    shell:
        "nested-reft collect --root {params.root} 2> {log}"


rule presentation_tables:
    input:
        SETTINGS,
        sources("tables", *[entry.module for entry in PRESENTATION_TABLES.values()]),
        expand(f"{RESULTS}/tables/{{table}}.csv", table=TIDY_TABLES),
    output:
        expand(
            f"{RESULTS}/tables/{{table}}.{{kind}}",
            table=PRESENTATION_TABLES,
            kind=PLAIN_TABLE_KINDS,
        ),
        [
            (
                report(
                    f"{RESULTS}/tables/{name}.html",
                    category=TABLES,
                    labels={"table": name.replace("_", " ")},
                )
                if name in asked(PRESENTATION_TABLES, CONFIG)
                else f"{RESULTS}/tables/{name}.html"
            )
            for name in PRESENTATION_TABLES
        ],
    log:
        f"{RESULTS}/logs/report/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/tables.tsv"
    conda:
        ENVIRONMENT
    params:
        root=lambda wildcards, output: Path(output[0]).parents[1].as_posix(),
    message:
        "Tables: accuracy, speed-up, equivalence"
    shell:
        "nested-reft tables --root {params.root} 2> {log}"


rule claims:
    input:
        SETTINGS,
        sources("claims"),
        expand(f"{RESULTS}/tables/{{table}}.csv", table=CLAIM_TABLES),
    output:
        expand(
            f"{RESULTS}/tables/claims.{{kind}}",
            kind=PLAIN_TABLE_KINDS,
        ),
        # The report's first page, and what `nested-reft compare` reads.
        expand(f"{RESULTS}/tables/{{table}}.csv", table=["verdicts", "cells"]),
        report(
            f"{RESULTS}/tables/claims.html",
            category=CLAIMS,
            labels={"table": "claims and verdicts"},
        ),
    log:
        f"{RESULTS}/logs/report/claims.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/claims.tsv"
    conda:
        ENVIRONMENT
    params:
        root=lambda wildcards, output: Path(output[0]).parents[1].as_posix(),
        # So that the commands of the table, pasted here, make the same figures again.
        call=lambda wildcards: f"--target-folder {shlex.quote(PREFIXED_RESULTS)} --options={shlex.quote(command_options())}",
    message:
        "Claims and verdicts"
    shell:
        "nested-reft claims --root {params.root} {params.call} 2> {log}"


rule figure:
    input:
        SETTINGS,
        lambda wildcards: sources("figure", FIGURES[wildcards.figure].module),
        lambda wildcards: [
            f"{RESULTS}/tables/{table}.csv"
            for table in FIGURES[wildcards.figure].tables
        ],
    output:
        report(
            f"{RESULTS}/figures/{{figure}}.png",
            caption="../report/caption.rst",
            category=lambda wildcards: FIGURES[wildcards.figure].category,
            labels={"figure": "{figure}"},
        ),
        expand(
            f"{RESULTS}/figures/{{{{figure}}}}.{{kind}}",
            kind=[kind for kind in FIGURE_KINDS if kind != "png"],
        ),
    log:
        f"{RESULTS}/logs/report/figure_{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/figure_{{figure}}.tsv"
    conda:
        ENVIRONMENT
    params:
        root=lambda wildcards, output: Path(output[0]).parents[1].as_posix(),
        caption=lambda wildcards: FIGURES[wildcards.figure].caption,
    message:
        "Figure: {wildcards.figure}"
    shell:
        "nested-reft figure {wildcards.figure} --root {params.root} 2> {log}"


rule page:
    input:
        SETTINGS,
        lambda wildcards: sources("page", PAGES[wildcards.page].module),
        lambda wildcards: [
            f"{RESULTS}/tables/{table}.csv" for table in PAGES[wildcards.page].tables
        ],
    output:
        report(
            f"{RESULTS}/pages/{{page}}.html",
            caption="../report/caption.rst",
            category=lambda wildcards: PAGES[wildcards.page].category,
            labels={"page": "{page}"},
        ),
    log:
        f"{RESULTS}/logs/report/page_{{page}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/page_{{page}}.tsv"
    conda:
        ENVIRONMENT
    params:
        root=lambda wildcards, output: Path(output[0]).parents[1].as_posix(),
        caption=lambda wildcards: PAGES[wildcards.page].caption,
    message:
        "Page: {wildcards.page}"
    shell:
        "nested-reft page {wildcards.page} --root {params.root} 2> {log}"


rule figures:
    input:
        rules_of_figures(),


rule tables:
    input:
        rules_of_tables(),
