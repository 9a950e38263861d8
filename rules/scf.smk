"""All SCFs of the workflow: for the crystals (stage `scf`), the elements (`references`), the designs (`evaluation`) and, again, the hits (`confirmation`)."""

# The plan of a stage depends on pw.x, its shards on the plan: another pw.x that leaves the plan unchanged runs no shard again.
# A rule that takes minutes at most on a few Parquet files, or needs a network that compute nodes may lack, is a `localrule`, which runs where
# Snakemake runs.


checkpoint fetch_pseudopotentials:
    output:
        FAMILY,
    log:
        f"{CACHE}/logs/fetch_pseudopotentials.{cfg.dft.family}.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_pseudopotentials.{cfg.dft.family}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        FAMILY_DIGEST,
        call=unrecorded("xtalrl.dft.pseudopotentials.fetch_family"),
        family=cfg.dft.family,
        location=unrecorded(cfg.dft.pseudopotentials),
        cache=unrecorded(CACHE),
    message:
        "Getting the pseudopotentials {params.family}"
    script:
        "../workflow/scripts/call.py"


checkpoint fetch_engine:
    output:
        ENGINE,
    log:
        f"{CACHE}/logs/fetch_engine.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_engine.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.dft.engines.prepare_engine"),
        command=cfg.dft.command,
        cache=unrecorded(CACHE),
    message:
        "Finding pw.x, or fetching the embedded one"
    script:
        "../workflow/scripts/call.py"


checkpoint plan_crystal_scf:
    input:
        compared_references,
        ENGINE,
        crystals=f"{RESULTS}/structures/crystals.parquet",
        family=FAMILY,
    output:
        requests=f"{RESULTS}/scf/requests.parquet",
    log:
        f"{RESULTS}/logs/plan_crystal_scf.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_crystal_scf.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.requests.plan_crystal_scf"),
        protocol=cfg.dft.protocol,
        shards=cfg.dft.shards.scf,
    message:
        "Planning the SCFs of the crystals"
    script:
        "../workflow/scripts/call.py"


checkpoint plan_reference_scf:
    input:
        ENGINE,
        crystals=f"{RESULTS}/structures/crystals.parquet",
        elemental_crystals=elemental_crystals,
        family=FAMILY,
    output:
        requests=f"{RESULTS}/references/requests.parquet",
    log:
        f"{RESULTS}/logs/plan_reference_scf.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_reference_scf.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.requests.plan_reference_scf"),
        elements=reference_elements,
        protocol=cfg.dft.protocol,
        shards=cfg.dft.shards.references,
    message:
        "Planning the SCFs of the elements"
    script:
        "../workflow/scripts/call.py"


rule run_scf_shard:
    input:
        rerun_mark,
        requests=f"{RESULTS}/{{stage}}/requests.parquet",
        family=FAMILY,
    output:
        outcomes=f"{RESULTS}/{{stage}}/shards/{{shard}}.parquet",
    # No benchmark: the outcomes hold the times of every SCF, which saves one file for each of a thousand shards.
    log:
        f"{RESULTS}/logs/run_scf_shard.{{stage}}.{{shard}}.log",
    conda:
        "../envs/workflow.yaml"
    threads: 4
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.shards.run_shard"),
        shard=of_wildcard("shard", int),
        protocol=stage_protocol,
        recovery=cfg.dft.recovery,
        time_limits_min=stage_time_limits,
        accept_not_saved=cfg.dft.accept_not_saved,
        command=unrecorded(cfg.dft.command),
        cache=unrecorded(CACHE),
        finished=unrecorded(cfg.dft.finished),
        workers=threads_of_job,
        runtime_min=runtime_of_job,
    message:
        "Running SCF shard {wildcards.shard} of the stage {wildcards.stage}, {threads} at a time"
    script:
        "../workflow/scripts/call.py"


checkpoint gather_scf:
    input:
        requests=f"{RESULTS}/{{stage}}/requests.parquet",
        shards=shard_outcomes,
    output:
        outcomes=f"{RESULTS}/{{stage}}/outcomes.parquet",
    log:
        f"{RESULTS}/logs/gather_scf.{{stage}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_scf.{{stage}}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.dft.outcome_rows.gather_outcomes"),
    message:
        "Gathering the SCF outcomes of the stage {wildcards.stage}"
    script:
        "../workflow/scripts/call.py"
