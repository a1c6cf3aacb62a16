# Pre-trained models: made here (`source: scratch`), or from the hub or its mirror.
rule model:
    input:
        lambda wildcards: (
            SOURCES["pretrain"]
            if CONFIG.sizes[wildcards.size].source == "scratch"
            else []
        ),
    output:
        policy=directory(f"{RESULTS}/models/{{size}}"),
        provenance=f"{RESULTS}/models/{{size}}.json",
    log:
        f"{RESULTS}/logs/models/{{size}}.log",
    # The longest jobs that others wait for.
    priority: 10
    conda:
        ENVIRONMENT
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=asks_for("model", "mem_mb"),
        runtime=asks_for("model", "runtime"),
        gpu=gpus("model"),
    params:
        settings=lambda wildcards: jobs.model_settings(
            CONFIG, wildcards.size
        ).canonical_json(),
    message:
        "Pre-trained model: {wildcards.size}"
    shell:
        ON_GPU
        + "nested-reft model --settings {params.settings:q} --threads {threads} --output {output.policy}"
        f" --provenance {{output.provenance}} --lock {LOCK} 2> {{log}}"
