"""Every SCF of the workflow: of the crystals (stage `scf`), the elements (`references`), the designs (`evaluation`) and their hits again (`confirmation`)."""

# The plan of a stage waits for a pw.x, its shards for the plan: another pw.x that leaves the plan the same runs no shard again.
# What takes minutes at most on a few Parquet files, or needs a network that compute nodes may lack, is a `localrule`: it runs where Snakemake runs.


checkpoint fetch_pseudopotentials:
    output:
        family=FAMILY,
    log:
        f"{CACHE}/logs/fetch_pseudopotentials.{cfg.dft.family}.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_pseudopotentials.{cfg.dft.family}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        family=cfg.dft.family,
    message:
        "Getting the pseudopotentials {params.family}"
    script:
        "../workflow/scripts/fetch_pseudopotentials.py"


checkpoint fetch_engine:
    output:
        engine=ENGINE,
    log:
        f"{CACHE}/logs/fetch_engine.log",
    benchmark:
        f"{CACHE}/benchmarks/fetch_engine.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        command=cfg.dft.command,
    message:
        "Finding pw.x, or fetching the embedded one"
    script:
        "../workflow/scripts/fetch_engine.py"


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
        protocol=cfg.dft.protocol,
        shards=cfg.dft.shards.scf,
    message:
        "Planning the SCFs of the crystals"
    script:
        "../workflow/scripts/plan_crystal_scf.py"


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
        elements=reference_elements,
        protocol=cfg.dft.protocol,
        shards=cfg.dft.shards.references,
    message:
        "Planning the SCFs of the elements"
    script:
        "../workflow/scripts/plan_reference_scf.py"


rule run_scf_shard:
    input:
        requests=f"{RESULTS}/{{stage}}/requests.parquet",
        family=FAMILY,
        mark=rerun_mark,
    output:
        outcomes=f"{RESULTS}/{{stage}}/shards/{{shard}}.parquet",
    # No benchmark: the outcomes hold the times of every SCF, and a file less for each of a thousand shards counts.
    log:
        f"{RESULTS}/logs/run_scf_shard.{{stage}}.{{shard}}.log",
    conda:
        "../envs/workflow.yaml"
    threads: 4
    params:
        protocol=stage_protocol,
        recovery=cfg.dft.recovery,
        time_limits_min=stage_time_limits,
        accept_not_saved=cfg.dft.accept_not_saved,
    message:
        "Running SCF shard {wildcards.shard} of the stage {wildcards.stage}, {threads} at a time"
    script:
        "../workflow/scripts/run_scf_shard.py"


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
    message:
        "Gathering the SCF outcomes of the stage {wildcards.stage}"
    script:
        "../workflow/scripts/gather_scf.py"
