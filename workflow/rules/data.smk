# Problems to fine-tune on (train) and benchmarks (test): generated, or from the hub or its mirror.
rule data:
    input:
        SOURCES["data"],
    output:
        problems=f"{RESULTS}/data/{{role}}/{{problems}}.jsonl",
        provenance=f"{RESULTS}/data/{{role}}/{{problems}}.json",
    log:
        f"{RESULTS}/logs/data/{{role}}/{{problems}}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=lambda wildcards: jobs.data_settings(
            CONFIG, wildcards.role, wildcards.problems
        ).canonical_json(),
    message:
        "Problems: {wildcards.problems} ({wildcards.role})"
    shell:
        "nested-reft data --settings {params.settings:q} --output {output.problems}"
        " --provenance {output.provenance} 2> {log}"


# One small file that stands once all sources are there: no training starts before bad input has been found.
rule check:
    input:
        checked_sources(),
    output:
        f"{RESULTS}/data/checked.json",
    log:
        f"{RESULTS}/logs/data/checked.log",
    conda:
        ENVIRONMENT
    message:
        "All data sets and fetched models are there"
    shell:
        "nested-reft check --output {output} {input} 2> {log}"
