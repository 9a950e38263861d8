"""SCFs of the distinct valid designs, and their properties next to those of the true crystals."""


rule sample_designs:
    input:
        assessments=f"{RESULTS}/designs/assessments.parquet",
    output:
        sample=f"{RESULTS}/designs/sample.parquet",
    log:
        f"{RESULTS}/logs/sample_designs.log",
    benchmark:
        f"{RESULTS}/benchmarks/sample_designs.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.sampling.sample_designs"),
        max_sites=cfg.evaluation.max_sites,
        limit=cfg.evaluation.limit,
    message:
        "Drawing the skeletons whose designs are computed"
    script:
        "../workflow/scripts/call.py"


checkpoint plan_design_scf:
    input:
        ENGINE,
        assessments=computed_designs(f"{RESULTS}/designs"),
        crystals=f"{RESULTS}/structures/crystals.parquet",
        external_crystals=external_sets(f"{RESULTS}/external/{{set}}/crystals.parquet"),
        references=matching_references,
        elemental_crystals=elemental_crystals,
        family=FAMILY,
    output:
        requests=f"{RESULTS}/evaluation/requests.parquet",
    log:
        f"{RESULTS}/logs/plan_design_scf.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_design_scf.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.requests.plan_design_scf"),
        protocol=cfg.dft.protocol,
        recovery=cfg.dft.recovery,
        shards=cfg.dft.shards.evaluation,
    message:
        "Planning the SCFs of the designs and of elements they add"
    script:
        "../workflow/scripts/call.py"


checkpoint evaluate_designs:
    input:
        assessments=computed_designs(f"{RESULTS}/designs"),
        outcomes=f"{RESULTS}/evaluation/outcomes.parquet",
        references=matching_references,
        labels=true_labels,
    output:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
    log:
        f"{RESULTS}/logs/evaluate_designs.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_designs.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.evaluation.evaluate_designs"),
        of_snapshot=False,
    message:
        "Joining the designs with their DFT properties"
    script:
        "../workflow/scripts/call.py"


checkpoint assess_stability:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
        outcomes=f"{RESULTS}/evaluation/outcomes.parquet",
        labels=true_labels,
        crystals=f"{RESULTS}/structures/crystals.parquet",
        references=matching_references,
    output:
        stability=f"{RESULTS}/evaluation/stability.parquet",
    log:
        f"{RESULTS}/logs/assess_stability.log",
    benchmark:
        f"{RESULTS}/benchmarks/assess_stability.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.stability.assess_stability"),
    message:
        "Placing the designs on the convex hull"
    script:
        "../workflow/scripts/call.py"
