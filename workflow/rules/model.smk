# Pre-trained models: made here (`source: scratch`), or fetched: from the hub or its mirror, or a GGUF file.
rule model:
    input:
        lambda wildcards: model_sources(model_command(wildcards)),
    output:
        policy=directory(f"{RESULTS}/models/{{size}}"),
        provenance=f"{RESULTS}/models/{{size}}.json",
    log:
        f"{RESULTS}/logs/models/{{size}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{size}}.tsv"
    # Of the jobs that others wait for, these take longest.
    priority: 10
    conda:
        ENVIRONMENT
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=asks_for("model", "mem_mb"),
        runtime=asks_for("model", "runtime"),
        gpu=gpus("model"),
    params:
        command=model_command,
        lock=lambda wildcards: lock_option(model_command(wildcards)),
        threads=lambda wildcards, threads: (
            f"--threads {threads}" if model_command(wildcards) == "pretrain" else ""
        ),
        settings=lambda wildcards: jobs.model_settings(
            CONFIG, wildcards.size
        ).canonical_json(),
    message:
        "Pre-trained model: {wildcards.size}"
    shell:
        ON_GPU
        + "nested-reft {params.command} --settings {params.settings:q} {params.threads} --output {output.policy}"
        " --provenance {output.provenance} {params.lock} 2> {log}"


if CONFIG.warmup:

    # Supervised fine-tuning on worked solutions, before reinforcement: made once, and shared by all runs.
    rule warmup:
        input:
            sources("warmup"),
            checked=ancient(f"{RESULTS}/data/checked.json"),
            policy=f"{RESULTS}/models/{{size}}",
            problems=expand(
                f"{RESULTS}/data/warmup/{{name}}.jsonl", name=CONFIG.warmup.datasets
            ),
        output:
            policy=directory(f"{RESULTS}/{{warmup}}/{{size}}"),
            manifest=f"{RESULTS}/{{warmup}}/{{size}}.json",
        log:
            f"{RESULTS}/logs/{{warmup}}/{{size}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/{{warmup}}/{{size}}.tsv"
        priority: 10
        conda:
            ENVIRONMENT
        threads: CONFIG.threads_per_job
        resources:
            mem_mb=asks_for("warmup", "mem_mb"),
            runtime=asks_for("warmup", "runtime"),
            gpu=gpus("warmup"),
        params:
            settings=lambda wildcards: jobs.warmup_settings(
                CONFIG, wildcards.size, wildcards.warmup
            ).canonical_json(),
            checkpoints=f"{PREFIXED_RESULTS}/checkpoints",
        message:
            "Warm-up: {wildcards.size}, {wildcards.warmup}"
        shell:
            ON_GPU
            + "nested-reft warmup --settings {params.settings:q} --threads {threads} --policy {input.policy}"
            " --problems {input.problems} --checkpoints {params.checkpoints} --output {output.policy}"
            " --manifest {output.manifest} 2> {log}"
