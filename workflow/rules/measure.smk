# Speed, of rollouts and of whole training steps. These jobs take all cores, so that no other job runs with them, but compute
# with their usual threads.
rule throughput:
    input:
        sources("throughput"),
        checked=ancient(f"{RESULTS}/data/checked.json"),
        policy=START,
        problems=f"{RESULTS}/data/train/{next(iter(CONFIG.datasets))}.jsonl",
    output:
        f"{RESULTS}/throughput/{{size}}/skip{{skip}}.json",
    log:
        f"{RESULTS}/logs/throughput/{{size}}/skip{{skip}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/throughput/{{size}}/skip{{skip}}.tsv"
    conda:
        ENVIRONMENT
    threads: all_cores()
    resources:
        mem_mb=asks_for("throughput", "mem_mb"),
        runtime=asks_for("throughput", "runtime"),
        gpu=gpus("throughput"),
    params:
        settings=lambda wildcards: jobs.throughput_settings(
            CONFIG, wildcards.size, int(wildcards.skip)
        ).canonical_json(),
        compute_threads=CONFIG.threads_per_job,
    message:
        "Throughput, alone on the machine: {wildcards.size}, skip {wildcards.skip} %"
    shell:
        ON_GPU
        + "nested-reft throughput --settings {params.settings:q} --threads {params.compute_threads}"
        " --policy {input.policy} --problems {input.problems} --output {output} 2> {log}"


rule step_speed:
    input:
        sources("step_speed", *ENGINE),
        checked=ancient(f"{RESULTS}/data/checked.json"),
        policy=START,
        problems=f"{RESULTS}/data/train/{next(iter(CONFIG.datasets))}.jsonl",
    output:
        f"{RESULTS}/step_speed/{{size}}/skip{{skip}}.json",
    log:
        f"{RESULTS}/logs/step_speed/{{size}}/skip{{skip}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/step_speed/{{size}}/skip{{skip}}.tsv"
    conda:
        ENVIRONMENT
    threads: all_cores()
    resources:
        mem_mb=asks_for("step_speed", "mem_mb"),
        runtime=asks_for("step_speed", "runtime"),
        gpu=gpus("step_speed"),
    params:
        settings=lambda wildcards: jobs.step_speed_settings(
            CONFIG, wildcards.size, int(wildcards.skip)
        ).canonical_json(),
        compute_threads=CONFIG.threads_per_job,
    message:
        "Whole steps, alone on the machine: {wildcards.size}, skip {wildcards.skip} %"
    shell:
        ON_EACH_GPU
        + "nested-reft step-speed --settings {params.settings:q} --threads {params.compute_threads}"
        " --policy {input.policy} --problems {input.problems} --output {output} 2> {log}"


# What leaving out each layer of a model does to its next token, on prompts alone.
rule influence:
    input:
        sources("influence"),
        checked=ancient(f"{RESULTS}/data/checked.json"),
        policy=stage_folder,
        problems=f"{RESULTS}/data/train/{next(iter(CONFIG.datasets))}.jsonl",
    output:
        f"{RESULTS}/influence/{{stage}}/{{size}}.json",
    log:
        f"{RESULTS}/logs/influence/{{stage}}/{{size}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/influence/{{stage}}/{{size}}.tsv"
    conda:
        ENVIRONMENT
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=asks_for("influence", "mem_mb"),
        runtime=asks_for("influence", "runtime"),
        gpu=gpus("influence"),
    params:
        settings=lambda wildcards: jobs.influence_settings(
            CONFIG, wildcards.size, wildcards.stage
        ).canonical_json(),
    message:
        "Influence of each layer: {wildcards.size}, {wildcards.stage}"
    shell:
        ON_GPU
        + "nested-reft influence --settings {params.settings:q} --threads {threads}"
        " --policy {input.policy} --problems {input.problems} --output {output} 2> {log}"


# Bias and variance of the gradient estimates of the model that reinforcement starts from, for all corrections of
# `gradients`, against on-policy estimates, which are the same at every skip.
rule on_policy_gradients:
    input:
        sources("on_policy_gradients"),
        checked=ancient(f"{RESULTS}/data/checked.json"),
        policy=START,
        problems=f"{RESULTS}/data/train/{next(iter(CONFIG.datasets))}.jsonl",
    output:
        f"{RESULTS}/gradients/{{size}}/on_policy.safetensors",
    log:
        f"{RESULTS}/logs/gradients/{{size}}/on_policy.log",
    benchmark:
        f"{RESULTS}/benchmarks/gradients/{{size}}/on_policy.tsv"
    conda:
        ENVIRONMENT
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=asks_for("gradients", "mem_mb"),
        runtime=asks_for("gradients", "runtime"),
        gpu=gpus("gradients"),
    params:
        settings=lambda wildcards: jobs.on_policy_settings(
            CONFIG, wildcards.size
        ).canonical_json(),
    message:
        "Gradients, on-policy: {wildcards.size}"
    shell:
        ON_GPU
        + "nested-reft on-policy-gradients --settings {params.settings:q} --threads {threads}"
        " --policy {input.policy} --problems {input.problems} --output {output} 2> {log}"


rule gradients:
    input:
        sources("gradients"),
        checked=ancient(f"{RESULTS}/data/checked.json"),
        policy=START,
        problems=f"{RESULTS}/data/train/{next(iter(CONFIG.datasets))}.jsonl",
        on_policy=f"{RESULTS}/gradients/{{size}}/on_policy.safetensors",
        influence=lambda wildcards: influence_of(
            CONFIG.layer_choice.strategies[:1], wildcards.size
        ),
    output:
        f"{RESULTS}/gradients/{{size}}/skip{{skip}}.json",
    log:
        f"{RESULTS}/logs/gradients/{{size}}/skip{{skip}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gradients/{{size}}/skip{{skip}}.tsv"
    conda:
        ENVIRONMENT
    threads: CONFIG.threads_per_job
    resources:
        mem_mb=asks_for("gradients", "mem_mb"),
        runtime=asks_for("gradients", "runtime"),
        gpu=gpus("gradients"),
    params:
        settings=lambda wildcards: jobs.gradient_settings(
            CONFIG, wildcards.size, int(wildcards.skip)
        ).canonical_json(),
        influence=influence_option,
    message:
        "Gradients, bias and variance: {wildcards.size}, skip {wildcards.skip} %"
    shell:
        ON_GPU
        + "nested-reft gradients --settings {params.settings:q} --threads {threads} --policy {input.policy}"
        " --problems {input.problems} --on-policy {input.on_policy} --output {output}"
        " {params.influence} {input.influence} 2> {log}"


if CONFIG.nestability:

    # How far nested rollouts of a model are from it, before any reinforcement.
    rule nestability:
        input:
            sources("nestability"),
            checked=ancient(f"{RESULTS}/data/checked.json"),
            policy=stage_folder,
            problems=f"{RESULTS}/data/train/{next(iter(CONFIG.datasets))}.jsonl",
            influence=lambda wildcards: influence_of(
                CONFIG.nestability.strategies, wildcards.size, wildcards.stage
            ),
        output:
            f"{RESULTS}/nestability/{{stage}}/{{size}}/skip{{skip}}.json",
        log:
            f"{RESULTS}/logs/nestability/{{stage}}/{{size}}/skip{{skip}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/nestability/{{stage}}/{{size}}/skip{{skip}}.tsv"
        conda:
            ENVIRONMENT
        threads: CONFIG.threads_per_job
        resources:
            mem_mb=asks_for("nestability", "mem_mb"),
            runtime=asks_for("nestability", "runtime"),
            gpu=gpus("nestability"),
        params:
            settings=lambda wildcards: jobs.nestability_settings(
                CONFIG, wildcards.size, wildcards.stage, int(wildcards.skip)
            ).canonical_json(),
            influence=influence_option,
        message:
            "Nestability: {wildcards.size}, {wildcards.stage}, skip {wildcards.skip} %"
        shell:
            ON_GPU
            + "nested-reft nestability --settings {params.settings:q} --threads {threads}"
            " --policy {input.policy} --problems {input.problems} --output {output}"
            " {params.influence} {input.influence} 2> {log}"


# Bias and variance without sampling: sums over all completions of a policy small enough to enumerate. Needs no data or model.
rule exact:
    input:
        sources("exact"),
    output:
        f"{RESULTS}/exact.json",
    log:
        f"{RESULTS}/logs/exact.log",
    benchmark:
        f"{RESULTS}/benchmarks/exact.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    message:
        "Exact bias and variance on an enumerable policy"
    shell:
        "nested-reft exact --output {output} 2> {log}"
