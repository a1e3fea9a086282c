"""Plans and routes are values: what is kept, what is embedded, and which version asks which shard."""

from pathlib import Path

import pytest

from cmcl_ray.components import ComponentSpec, build_component, component_names
from cmcl_ray.config import load_config
from cmcl_ray.errors import ConfigError, VersionError
from cmcl_ray.index.shards import Shard
from cmcl_ray.policies.base import QueryRoute
from cmcl_ray.policies.bridge import Bridge
from cmcl_ray.policies.keep import Keep
from cmcl_ray.policies.reindex import Reindex
from cmcl_ray.policies.route import Route

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
VERSIONS = ["v0", "v1", "v2"]


def shard(task, version):
    return Shard(task, f"task{task}", "image", version, "float32", 4, 10, f"shards/{task}{version}", "e", "exact")


OLD = [shard(0, "v0"), shard(1, "v1")]


@pytest.mark.parametrize("policy", [Keep(), Bridge(), Route()])
def test_cheap_policies_keep_old_shards_and_embed_the_newest_task(policy):
    plan = policy.plan(OLD, 2, VERSIONS)
    assert (plan.keep, plan.embed) == (tuple(OLD), (2,))
    # Asked again after the newest shard was made, the answer is the same.
    assert policy.plan([*OLD, shard(2, "v2")], 2, VERSIONS) == plan
    assert policy.plan([], 0, VERSIONS[:1]).embed == (0,)


def test_reindex_embeds_everything():
    plan = Reindex().plan(OLD, 2, VERSIONS)
    assert (plan.keep, plan.embed) == ((), (0, 1, 2))


def test_routes():
    old, new = shard(0, "v0"), shard(2, "v2")
    assert Keep().route(old, VERSIONS) == QueryRoute("v2")
    assert Bridge().route(old, VERSIONS) == QueryRoute("v2", map_to="v0")
    assert Bridge().route(new, VERSIONS) == QueryRoute("v2")
    assert Route().route(old, VERSIONS) == QueryRoute("v0", calibrate=True)
    assert Route("none").route(old, VERSIONS) == QueryRoute("v0")
    assert Reindex().route(new, VERSIONS) == QueryRoute("v2")


@pytest.mark.parametrize("policy", [Keep(), Bridge(), Route(), Reindex()])
def test_a_shard_of_an_unknown_version_is_refused(policy):
    with pytest.raises(
        VersionError, match=r"shards/0zz .*made by model version zz, which is not of this run; expected one of v0, v1"
    ):
        policy.route(shard(0, "zz"), VERSIONS)
    with pytest.raises(VersionError, match=r"expected one of no version yet"):
        policy.route(shard(0, "v0"), [])


@pytest.mark.parametrize("policy", [Keep(), Bridge(), Route()])
def test_a_shard_of_an_unknown_version_is_not_kept(policy):
    with pytest.raises(VersionError, match=r"embed the task's rows again with a version of this run"):
        policy.plan([shard(0, "zz")], 2, VERSIONS)


def test_reindex_refuses_a_shard_it_should_have_replaced():
    with pytest.raises(VersionError, match=r"all shards come from the newest, v2; carry out the policy's plan first"):
        Reindex().route(shard(0, "v0"), VERSIONS)


def test_map_steps():
    to_oldest = QueryRoute("v2", map_to="v0")
    assert Bridge().map_steps(to_oldest, VERSIONS) == [("v2", "v0")]
    assert Bridge(chain=True).map_steps(to_oldest, VERSIONS) == [("v2", "v1"), ("v1", "v0")]
    assert Bridge(chain=True).map_steps(QueryRoute("v2", map_to="v1"), VERSIONS) == [("v2", "v1")]
    for policy in (Bridge(), Bridge(chain=True), Keep(), Route()):
        assert policy.map_steps(QueryRoute("v2"), VERSIONS) == []


def test_a_task_that_changed_nothing_needs_no_step():
    bridge = Bridge(chain=True)
    assert bridge.map_steps(QueryRoute("b", map_to="a"), ["a", "a", "b", "b"]) == [("b", "a")]
    assert bridge.map_steps(QueryRoute("c", map_to="a"), ["a", "b", "b", "c"]) == [("c", "b"), ("b", "a")]
    assert bridge.map_steps(QueryRoute("a", map_to="a"), ["a", "a"]) == []


def test_maps_between_strangers_or_forward_in_time_are_refused():
    with pytest.raises(
        VersionError, match=r"no map goes from version v2 to zz: zz is not of this run; expected two of v0, v1, v2"
    ):
        Bridge().map_steps(QueryRoute("v2", map_to="zz"), VERSIONS)
    with pytest.raises(VersionError, match=r"from version v0 to v2 would go forward in time; expected an older target"):
        Bridge().map_steps(QueryRoute("v0", map_to="v2"), VERSIONS)


def test_policies_are_found_by_name_and_their_settings_checked(tmp_path):
    assert component_names("policy") == ["bridge", "keep", "reindex", "route"]
    policy = build_component(
        ComponentSpec("policy", "bridge", {"map": "ridge", "chain": True, "fit_pairs": 50}, "policies.bridge")
    )
    assert (policy.map_kind, policy.chain, policy.fit_pairs) == ("ridge", True, 50)
    with pytest.raises(ConfigError, match=r"policies\.bridge\.map is 'afine'; did you mean 'affine'"):
        build_component(ComponentSpec("policy", "bridge", {"map": "afine"}, "policies.bridge"))
    with pytest.raises(ConfigError, match=r"fit_pairs is 0; expected at least 1 pair"):
        Bridge(fit_pairs=0)


def test_route_raw_is_route_without_calibration():
    # base.yaml runs it beside the others, found by its label.
    section = load_config(str(CONFIGS / "base.yaml"))["policies"]["route_raw"]
    params = {key: value for key, value in section.items() if key != "name"}
    policy = build_component(ComponentSpec("policy", section["name"], params, "policies.route_raw"))
    assert isinstance(policy, Route)
    assert policy.calibration == "none"
