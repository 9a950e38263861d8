"""Finer SCFs of the designs that hit their target, and the verdict on these hits."""


checkpoint find_hits:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
    output:
        hits=f"{RESULTS}/confirmation/hits.parquet",
    log:
        f"{RESULTS}/logs/find_hits.log",
    benchmark:
        f"{RESULTS}/benchmarks/find_hits.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.confirmation.find_hits"),
        targets_ev=TARGET_OF_POLICY,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Finding the designs that hit their target"
    script:
        "../workflow/scripts/call.py"


checkpoint plan_confirmation_scf:
    input:
        ENGINE,
        hits=f"{RESULTS}/confirmation/hits.parquet",
        crystals=f"{RESULTS}/structures/crystals.parquet",
        external_crystals=external_sets(f"{RESULTS}/external/{{set}}/crystals.parquet"),
        family=FAMILY,
    output:
        requests=f"{RESULTS}/confirmation/requests.parquet",
    log:
        f"{RESULTS}/logs/plan_confirmation_scf.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_confirmation_scf.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.requests.plan_confirmation_scf"),
        protocol=cfg.dft.protocol,
        shards=cfg.dft.shards.confirmation,
    message:
        "Planning the finer SCFs of the hits"
    script:
        "../workflow/scripts/call.py"


checkpoint confirm_hits:
    input:
        hits=f"{RESULTS}/confirmation/hits.parquet",
        outcomes=f"{RESULTS}/confirmation/outcomes.parquet",
    output:
        confirmation=f"{RESULTS}/confirmation/confirmation.parquet",
    log:
        f"{RESULTS}/logs/confirm_hits.log",
    benchmark:
        f"{RESULTS}/benchmarks/confirm_hits.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.confirmation.confirm_hits"),
    message:
        "Confirming and withdrawing hits"
    script:
        "../workflow/scripts/call.py"
