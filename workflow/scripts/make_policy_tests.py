"""Test pairs of policies."""

from xtalrl.report.comparisons import make_policy_tests
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_policy_tests(**snakemake.input, **snakemake.output, **snakemake.params)
