"""What Snakemake needs to know about a campaign's configuration at every start; quick to import."""

from __future__ import annotations

from xtalrl.config import SPLITS, Config
from xtalrl.errors import XtalrlError
from xtalrl.rl.pretrained import pretrained_policies, read_pretrained
from xtalrl.structures.external_files import check_path


def campaign_stages(config: Config) -> list[str]:
    """The SCF stages of a campaign: its rounds, and the confirmation of its hits."""
    if not config.campaign.is_on:
        return []
    return [*(f"campaign-{number}" for number in range(1, config.campaign.rounds + 1)), "campaign-confirmation"]


def scf_stages(config: Config) -> list[str]:
    """The folders of a run's results whose `outcomes.parquet` holds SCFs, those of a campaign last."""
    return ["scf", "references", "evaluation", "confirmation", *campaign_stages(config)]


def check_campaign(config: Config) -> None:
    """Check that the policy and the skeletons of a campaign exist.

    Raises:
        XtalrlError: they do not; the message says what is allowed.
    """
    campaign = config.campaign
    if not campaign.is_on:
        return
    trained = config.trained_specs()
    if campaign.policy not in trained:
        if campaign.policy not in pretrained_policies():
            raise XtalrlError(
                f"`campaign.policy` is {campaign.policy!r}. It may be a policy that ships with xtalrl ({', '.join(pretrained_policies()) or 'none'}), or "
                f"one that this run trains ({', '.join(trained) or 'none'})."
            )
        read_pretrained(campaign.policy)
    elif campaign.policy_steps and not trained[campaign.policy].algorithm.learns_from_outcomes:
        raise XtalrlError(
            f"`campaign.policy_steps` is {campaign.policy_steps}, and {campaign.policy} does not learn from gaps, so that it would learn to repeat designs that "
            "missed: set it to 0, or take another policy (`campaign.policy`)."
        )
    if campaign.skeletons not in SPLITS:
        try:
            check_path(campaign.skeletons)
        except XtalrlError as error:
            raise XtalrlError(
                f"`campaign.skeletons` is {campaign.skeletons!r}, neither a split ({', '.join(SPLITS)}) nor crystals that can be read: {error}"
            ) from None
