"""A campaign (docs/campaign.md): rounds of designs, screen, SCFs and learning; then the hits, confirmed and handed over."""


wildcard_constraints:
    round=r"[1-9]\d*",


checkpoint take_skeletons:
    input:
        crystals=[] if OWN_SKELETONS else f"{RESULTS}/structures/crystals.parquet",
        graphs=[] if OWN_SKELETONS else f"{RESULTS}/structures/graphs.parquet",
    output:
        skeletons=f"{RESULTS}/campaign/skeletons.parquet",
        skeleton_graphs=f"{RESULTS}/campaign/graphs.parquet",
    log:
        f"{RESULTS}/logs/take_skeletons.log",
    benchmark:
        f"{RESULTS}/benchmarks/take_skeletons.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        fingerprint(CAMPAIGN.skeletons) if OWN_SKELETONS else "",
        call=unrecorded("xtalrl.campaign.skeletons.take_skeletons"),
        wanted=CAMPAIGN.skeletons,
        max_sites=CAMPAIGN.max_sites,
        limit=CAMPAIGN.limit,
        seed=CAMPAIGN.seed,
    message:
        "Taking the skeletons of the campaign"
    script:
        "../workflow/scripts/call.py"


rule train_campaign_policy:
    input:
        f"{campaign_policy()}/policy.json",
        f"{campaign_policy()}/weights.safetensors",
        graphs=f"{RESULTS}/structures/graphs.parquet",
        labels=true_labels,
        design_graphs=of_earlier_rounds("graphs.parquet"),
        design_labels=of_earlier_rounds("labels.parquet"),
    output:
        f"{ROUND}/policy/training.csv",
        f"{ROUND}/policy/weights.safetensors",
        policy=f"{ROUND}/policy/policy.json",
    log:
        f"{RESULTS}/logs/train_campaign_policy.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_campaign_policy.{{round}}.tsv"
    conda:
        "../envs/train.yaml"
    # Few steps of a small network: more threads would only wait for each other.
    threads: 1
    params:
        call=unrecorded("xtalrl.rl.campaign_learning.learn_from_designs"),
        folder=unrecorded(campaign_policy()),
        device=unrecorded(cfg.training.device),
        threads=threads_of_job,
        steps=CAMPAIGN.policy_steps,
        seed=CAMPAIGN.seed,
    message:
        "Round {wildcards.round}: the policy learns from the rounds before"
    script:
        "../workflow/scripts/call.py"


checkpoint propose_designs:
    input:
        policy=policy_of_round("policy.json"),
        weights=policy_of_round("weights.safetensors"),
        graphs=f"{RESULTS}/campaign/graphs.parquet",
        earlier=of_earlier_rounds("designs.parquet"),
    output:
        designs=f"{ROUND}/designs.parquet",
    log:
        f"{RESULTS}/logs/propose_designs.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/propose_designs.{{round}}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        call=unrecorded("xtalrl.rl.proposals.propose_designs"),
        device=unrecorded(cfg.training.device),
        settings=cfg.proposing,
        keep=CAMPAIGN.keep,
        target_ev=CAMPAIGN.asked_ev if CAMPAIGN.is_on else None,
        round_number=round_number,
        seed=CAMPAIGN.seed,
    message:
        "Round {wildcards.round}: designing"
    script:
        "../workflow/scripts/call.py"


checkpoint assess_proposals:
    input:
        designs=[f"{ROUND}/designs.parquet"],
        crystals=f"{RESULTS}/campaign/skeletons.parquet",
        external_crystals=[],
        formulas=known_formulas,
    output:
        assessments=f"{ROUND}/assessments.parquet",
    log:
        f"{RESULTS}/logs/assess_proposals.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/assess_proposals.{{round}}.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.composition.assess_designs"),
    message:
        "Round {wildcards.round}: judging the compositions"
    script:
        "../workflow/scripts/call.py"


checkpoint fill_skeletons:
    input:
        assessments=f"{ROUND}/assessments.parquet",
        crystals=f"{RESULTS}/campaign/skeletons.parquet",
    output:
        filled=f"{ROUND}/crystals.parquet",
        graphs=f"{ROUND}/graphs.parquet",
        failures=f"{ROUND}/graph_failures.parquet",
    log:
        f"{RESULTS}/logs/fill_skeletons.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fill_skeletons.{{round}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    params:
        call=unrecorded("xtalrl.structures.filled.fill_skeletons"),
        cache=unrecorded(CACHE),
        workers=threads_of_job,
    message:
        "Round {wildcards.round}: building the graphs of the designs on {threads} cores"
    script:
        "../workflow/scripts/call.py"


checkpoint train_campaign_predictor:
    input:
        start=predictor_before,
        graphs=f"{RESULTS}/structures/graphs.parquet",
        labels=true_labels,
        design_graphs=of_earlier_rounds("graphs.parquet"),
        design_labels=of_earlier_rounds("labels.parquet"),
    output:
        predictor=f"{ROUND}/predictor.safetensors",
        held_out=f"{ROUND}/held_out.parquet",
    log:
        f"{RESULTS}/logs/train_campaign_predictor.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_campaign_predictor.{{round}}.tsv"
    conda:
        "../envs/train.yaml"
    # The networks are small: more threads would only wait for each other.
    threads: 1
    params:
        call=unrecorded("xtalrl.rl.predictor_training.train_with_designs"),
        threads=threads_of_job,
        steps=CAMPAIGN.predictor_steps,
        seed=CAMPAIGN.seed,
    message:
        "Round {wildcards.round}: training the predictor"
    script:
        "../workflow/scripts/call.py"


checkpoint predict_designs:
    input:
        graphs=f"{ROUND}/graphs.parquet",
        predictor=f"{ROUND}/predictor.safetensors",
    output:
        predictions=f"{ROUND}/predictions.parquet",
    log:
        f"{RESULTS}/logs/predict_designs.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_designs.{{round}}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        call=unrecorded("xtalrl.rl.predictor.predict_crystals"),
        gap_from=CAMPAIGN.wishes.get("gap_from"),
        gap_to=CAMPAIGN.wishes.get("gap_to"),
        confidence=cfg.evaluation.confidence,
    message:
        "Round {wildcards.round}: predicting the designs"
    script:
        "../workflow/scripts/call.py"


checkpoint screen_designs:
    input:
        assessments=f"{ROUND}/assessments.parquet",
        predictions=f"{ROUND}/predictions.parquet",
        labels=true_labels,
        family=FAMILY,
        earlier=of_earlier_rounds("screening.parquet"),
        skeletons=f"{RESULTS}/campaign/skeletons.parquet",
        earlier_outcomes=(
            of_earlier_rounds("outcomes.parquet") if CAMPAIGN.core_hours else []
        ),
    output:
        screening=f"{ROUND}/screening.parquet",
        chosen=f"{ROUND}/chosen.parquet",
    log:
        f"{RESULTS}/logs/screen_designs.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/screen_designs.{{round}}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.campaign.screening.screen_designs"),
        wishes=CAMPAIGN.wishes,
        recovery=cfg.dft.recovery,
        round_number=round_number,
        rounds=CAMPAIGN.rounds,
        budget=None if CAMPAIGN.core_hours else CAMPAIGN.budget,
        core_hours=CAMPAIGN.core_hours,
        audit=audit_share,
        seed=CAMPAIGN.seed,
    message:
        "Round {wildcards.round}: screening the designs"
    script:
        "../workflow/scripts/call.py"


checkpoint plan_campaign_scf:
    input:
        ENGINE,
        assessments=f"{ROUND}/chosen.parquet",
        crystals=f"{RESULTS}/campaign/skeletons.parquet",
        references=matching_references,
        elemental_crystals=elemental_crystals,
        family=FAMILY,
    output:
        requests=f"{ROUND}/requests.parquet",
    log:
        f"{RESULTS}/logs/plan_campaign_scf.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_campaign_scf.{{round}}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.requests.plan_design_scf"),
        protocol=cfg.dft.protocol,
        recovery=cfg.dft.recovery,
        shards=cfg.dft.shards.campaign,
    message:
        "Round {wildcards.round}: planning the SCFs"
    script:
        "../workflow/scripts/call.py"


checkpoint evaluate_campaign_round:
    input:
        assessments=f"{ROUND}/chosen.parquet",
        outcomes=f"{ROUND}/outcomes.parquet",
        references=matching_references,
        labels=true_labels,
    output:
        evaluation=f"{ROUND}/evaluation.parquet",
    log:
        f"{RESULTS}/logs/evaluate_campaign_round.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_campaign_round.{{round}}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.evaluation.evaluate_designs"),
        of_snapshot=False,
    message:
        "Round {wildcards.round}: joining the designs with their DFT properties"
    script:
        "../workflow/scripts/call.py"


checkpoint label_campaign_designs:
    input:
        evaluation=f"{ROUND}/evaluation.parquet",
        outcomes=f"{ROUND}/outcomes.parquet",
    output:
        labels=f"{ROUND}/labels.parquet",
    log:
        f"{RESULTS}/logs/label_campaign_designs.{{round}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/label_campaign_designs.{{round}}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.campaign.learning.label_designs"),
    message:
        "Round {wildcards.round}: labelling the designs for the next predictor"
    script:
        "../workflow/scripts/call.py"


checkpoint gather_campaign:
    input:
        evaluations=of_rounds("evaluation.parquet"),
        outcomes=of_rounds("outcomes.parquet"),
    output:
        evaluation=f"{RESULTS}/campaign/evaluation.parquet",
        all_outcomes=f"{RESULTS}/campaign/outcomes.parquet",
    log:
        f"{RESULTS}/logs/gather_campaign.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_campaign.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.campaign.hits.gather_rounds"),
    message:
        "Gathering the rounds of the campaign"
    script:
        "../workflow/scripts/call.py"


checkpoint assess_campaign_stability:
    input:
        evaluation=f"{RESULTS}/campaign/evaluation.parquet",
        outcomes=f"{RESULTS}/campaign/outcomes.parquet",
        labels=true_labels,
        crystals=f"{RESULTS}/structures/crystals.parquet",
        references=matching_references,
    output:
        stability=f"{RESULTS}/campaign/stability.parquet",
    log:
        f"{RESULTS}/logs/assess_campaign_stability.log",
    benchmark:
        f"{RESULTS}/benchmarks/assess_campaign_stability.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.stability.assess_stability"),
    message:
        "Placing the designs of the campaign on the convex hull"
    script:
        "../workflow/scripts/call.py"


checkpoint find_campaign_hits:
    input:
        evaluation=f"{RESULTS}/campaign/evaluation.parquet",
        stability=f"{RESULTS}/campaign/stability.parquet",
    output:
        hits=f"{RESULTS}/campaign/hits.parquet",
    log:
        f"{RESULTS}/logs/find_campaign_hits.log",
    benchmark:
        f"{RESULTS}/benchmarks/find_campaign_hits.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.campaign.hits.find_campaign_hits"),
        wishes=CAMPAIGN.wishes,
    message:
        "Finding the hits of the campaign"
    script:
        "../workflow/scripts/call.py"


checkpoint plan_campaign_confirmation:
    input:
        ENGINE,
        hits=f"{RESULTS}/campaign/hits.parquet",
        crystals=f"{RESULTS}/campaign/skeletons.parquet",
        family=FAMILY,
    output:
        requests=f"{RESULTS}/campaign-confirmation/requests.parquet",
    log:
        f"{RESULTS}/logs/plan_campaign_confirmation.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_campaign_confirmation.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        PROTOCOL_DIGEST,
        call=unrecorded("xtalrl.dft.requests.plan_confirmation_scf"),
        protocol=cfg.dft.protocol,
        shards=cfg.dft.shards.confirmation,
    message:
        "Planning the finer SCFs of the campaign's hits"
    script:
        "../workflow/scripts/call.py"


checkpoint confirm_campaign_hits:
    input:
        hits=f"{RESULTS}/campaign/hits.parquet",
        outcomes=f"{RESULTS}/campaign-confirmation/outcomes.parquet",
    output:
        confirmation=f"{RESULTS}/campaign/confirmation.parquet",
    log:
        f"{RESULTS}/logs/confirm_campaign_hits.log",
    benchmark:
        f"{RESULTS}/benchmarks/confirm_campaign_hits.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.metrics.confirmation.confirm_hits"),
    message:
        "Confirming and withdrawing the campaign's hits"
    script:
        "../workflow/scripts/call.py"


rule hand_over:
    input:
        screenings=of_rounds("screening.parquet"),
        predictions=of_rounds("predictions.parquet"),
        evaluation=f"{RESULTS}/campaign/evaluation.parquet",
        outcomes=f"{RESULTS}/campaign/outcomes.parquet",
        stability=f"{RESULTS}/campaign/stability.parquet",
        confirmation=f"{RESULTS}/campaign/confirmation.parquet",
        finer_outcomes=f"{RESULTS}/campaign-confirmation/outcomes.parquet",
        skeletons=f"{RESULTS}/campaign/skeletons.parquet",
        crystals=f"{RESULTS}/structures/crystals.parquet",
        family=FAMILY,
    output:
        hits=f"{RESULTS}/campaign/hits.csv",
        designs=directory(f"{RESULTS}/campaign/designs"),
    log:
        f"{RESULTS}/logs/hand_over.log",
    benchmark:
        f"{RESULTS}/benchmarks/hand_over.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.campaign.evidence.hand_over"),
        cache=unrecorded(CACHE),
        finished=unrecorded(cfg.dft.finished),
        wishes=CAMPAIGN.wishes,
    message:
        "Writing the hits, their crystals and the evidence"
    script:
        "../workflow/scripts/call.py"
