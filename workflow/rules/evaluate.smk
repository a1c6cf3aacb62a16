# Accuracy on one benchmark, of the pre-trained models and of every run.
rule evaluate_pretrained:
    input:
        SOURCES["evaluate"],
        policy=f"{RESULTS}/models/{{size}}",
        problems=f"{RESULTS}/data/test/{{benchmark}}.jsonl",
    output:
        f"{RESULTS}/evaluations/{{size}}/pretrained/{{benchmark}}.json",
    log:
        f"{RESULTS}/logs/evaluate/{{size}}/pretrained/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{size}}/pretrained/{{benchmark}}.tsv"
    params:
        settings=lambda wildcards: jobs.evaluate_settings(
            CONFIG, wildcards.size, None, wildcards.benchmark
        ).canonical_json(),
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=3000,
        gpu=GPUS,
    message:
        "Evaluate on {wildcards.benchmark}: {wildcards.size}, pre-trained"
    shell:
        "{PYTHON} -m nested_reft evaluate --settings {params.settings:q} --threads {threads} --policy {input.policy}"
        " --problems {input.problems} --output {output} 2> {log}"


use rule evaluate_pretrained as evaluate with:
    input:
        SOURCES["evaluate"],
        policy=f"{RESULTS}/runs/{RUN_PATH}/policy",
        problems=f"{RESULTS}/data/test/{{benchmark}}.jsonl",
    output:
        f"{RESULTS}/evaluations/{RUN_PATH}/{{benchmark}}.json",
    log:
        f"{RESULTS}/logs/evaluate/{RUN_PATH}/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{RUN_PATH}/{{benchmark}}.tsv"
    params:
        settings=lambda wildcards: jobs.evaluate_settings(
            CONFIG, wildcards.size, run_of(wildcards), wildcards.benchmark
        ).canonical_json(),
    message:
        "Evaluate on {wildcards.benchmark}: {wildcards.size}, {wildcards.dataset}, {wildcards.correction},"
        " skip {wildcards.skip} %, seed {wildcards.seed}"
