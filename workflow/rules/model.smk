# Pre-trained models: made here (`source: scratch`), or fetched: from the hub or its mirror, or a GGUF file.
rule model:
    input:
        lambda wildcards: model_sources(model_command(wildcards)),
    output:
        policy=directory(f"{RESULTS}/models/{{size}}"),
        provenance=f"{RESULTS}/models/{{size}}.json",
    log:
        f"{RESULTS}/logs/models/{{size}}.log",
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
