"""Assemble the reference energies."""

from xtalrl.dft.references import assemble_references
from xtalrl.workflow import job

with job(snakemake.log[0]):
    assemble_references(**snakemake.input, **snakemake.output)
