# Problems to fine-tune on (train) and benchmarks (test): generated, or from the hub or its mirror.
rule data:
    input:
        lambda wildcards: sources(data_command(wildcards)),
    output:
        problems=f"{RESULTS}/data/{{role}}/{{problems}}.jsonl",
        provenance=f"{RESULTS}/data/{{role}}/{{problems}}.json",
    log:
        f"{RESULTS}/logs/data/{{role}}/{{problems}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/data/{{role}}/{{problems}}.tsv"
    # Before all that computes: bad input is found first.
    priority: 20
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
    params:
        command=data_command,
        lock=lambda wildcards: lock_option(data_command(wildcards)),
        settings=lambda wildcards: jobs.data_settings(
            CONFIG, wildcards.role, wildcards.problems
        ).canonical_json(),
    message:
        "Problems: {wildcards.problems} ({wildcards.role})"
    shell:
        "nested-reft {params.command} --settings {params.settings:q} --output {output.problems}"
        " --provenance {output.provenance} {params.lock} 2> {log}"


# One small file that exists once all sources do: no training starts before bad input has been found.
rule check:
    input:
        code=sources("check"),
        # A new or changed entry is verified against what was fetched before; no training is repeated for it.
        lock=lock_file(),
        sources=checked_sources(),
    output:
        f"{RESULTS}/data/checked.json",
    log:
        f"{RESULTS}/logs/data/checked.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        lock=LOCK,
        settings=lambda wildcards: jobs.check_settings(CONFIG).canonical_json(),
    message:
        "All data sets and fetched models are present"
    shell:
        "nested-reft check --settings {params.settings:q} --output {output} --lock {params.lock:q} {input.sources} 2> {log}"


# Only runs when it is named. It edits a file under version control, so it has no output that other rules could need.
rule lock_hub:
    input:
        checked_sources(),
    log:
        f"{RESULTS}/logs/data/lock_hub.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        lock=LOCK,
    message:
        "Fetched data sets and models are recorded in {params.lock}"
    shell:
        "nested-reft lock --lock {params.lock:q} {input} 2> {log}"
