# Reinforced fine-tuning: one run of the run table. The baseline ReFT is the row with skip 0.
rule train:
    input:
        sources("train", *ENGINE),
        checked=ancient(f"{RESULTS}/data/checked.json"),
        policy=START,
        problems=f"{RESULTS}/data/train/{{dataset}}.jsonl",
        influence=lambda wildcards: influence_of(
            (run_of(wildcards).strategy,), wildcards.size
        ),
    output:
        policy=directory(f"{RESULTS}/runs/{RUN_PATH}/policy"),
        metrics=f"{RESULTS}/runs/{RUN_PATH}/metrics.jsonl",
        manifest=f"{RESULTS}/runs/{RUN_PATH}/manifest.json",
    log:
        f"{RESULTS}/logs/train/{RUN_PATH}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{RUN_PATH}.tsv"
    conda:
        ENVIRONMENT
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=asks_for("train", "mem_mb"),
        runtime=asks_for("train", "runtime"),
        gpu=gpus("train"),
    params:
        settings=lambda wildcards: jobs.train_settings(
            CONFIG, run_of(wildcards)
        ).canonical_json(),
        files=optional_files,
        # Not an output: Snakemake deletes outputs before a rerun, and a rerun continues from here.
        checkpoints=f"{PREFIXED_RESULTS}/checkpoints",
    message:
        "Train: {wildcards.size}, {wildcards.dataset}, {wildcards.correction}, {wildcards.rollout}, seed {wildcards.seed}"
    shell:
        ON_EACH_GPU
        + "nested-reft train --settings {params.settings:q} --threads {threads} --policy {input.policy}"
        " --problems {input.problems} --checkpoints {params.checkpoints} --output {output.policy}"
        " --metrics {output.metrics} --manifest {output.manifest} {params.files} 2> {log}"
