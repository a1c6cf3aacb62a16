# Accuracy of the models before reinforcement and of every run: one job per policy and batch of benchmarks
# (evaluation.benchmarks_per_job: 1 makes it one job per benchmark).
for number, batch in enumerate(benchmark_batches(CONFIG)):

    rule:
        name:
            f"evaluate_{'_'.join(batch)}"
            if len(batch) < len(CONFIG.benchmarks)
            else "evaluate"
        input:
            sources("evaluate", *ENGINE),
            policy=policy_folder,
            problems=expand(f"{RESULTS}/data/test/{{benchmark}}.jsonl", benchmark=batch),
        output:
            expand(
                f"{RESULTS}/evaluations/{{{{size}}}}/{{{{policy}}}}/{{benchmark}}.json",
                benchmark=batch,
            ),
        log:
            f"{RESULTS}/logs/evaluate/{{size}}/{{policy}}/{number}.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluate/{{size}}/{{policy}}/{number}.tsv"
        conda:
            ENVIRONMENT
        threads: CONFIG.threads_per_job
        resources:
            mem_mb=asks_for("evaluate", "mem_mb"),
            runtime=asks_for("evaluate", "runtime"),
            gpu=gpus("evaluate"),
        params:
            settings=lambda wildcards, batch=batch: jobs.evaluate_settings(
                CONFIG,
                wildcards.size,
                run_of_policy(wildcards),
                batch,
                PRETRAINED if run_of_policy(wildcards) else wildcards.policy,
            ).canonical_json(),
        message:
            f"Evaluate on {', '.join(batch)}: {{wildcards.size}} {{wildcards.policy}}"
        shell:
            ON_GPU
            + "nested-reft evaluate --settings {params.settings:q} --threads {threads}"
            " --policy {input.policy} --problems {input.problems} --output {output} 2> {log}"
