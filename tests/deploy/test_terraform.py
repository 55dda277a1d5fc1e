"""The Terraform modules: what they compute is what `millpond ecr plan` prints, and nothing in them dangles.

The resources themselves need the AWS provider, which cannot be had without a network. So everything that decides
something stands in files without resources (the module `plan`, `variables.tf` and `locals.tf` of the others), and the
real Terraform evaluates those.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import hcl2
import pytest
import yaml

from proxy.ecr.plan import OWN_IDENTITY
from tests.deploy import helm
from tests.deploy.terraform import OF_THE_PARSER, TERRAFORM, Variables, code, evaluated, named, terraform
from tests.support.programs import find, run

ROOT: Final = Path(__file__).parents[2]
MODULES: Final = ("plan", "millpond", "target")

MILLPOND: Final = "arn:aws:iam::111122223333:role/millpond"
ROLE: Final = "arn:aws:iam::444455556666:role/path/millpond"
OTHER_ROLE: Final = "arn:aws:iam::777788889999:role/pull"
OIDC: Final = "arn:aws:iam::111122223333:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/0123"
KEY: Final = "0a1b2c3d-0000-1111-2222-333344445555"
DEV: Final = {"name": "dev", "account": "111122223333", "region": "us-east-1"}
PROD: Final = {
    "name": "prod-1.eu_a",
    "account": "444455556666",
    "region": "eu-west-1",
    "role_arn": ROLE,
    "repository_prefix": "mirror/{name}/from/{upstream}",
    "platforms": "linux/amd64, linux/arm64/v8",
    "read": False,
    "upstreams": ["quay.io", "docker.io"],
    "repository": {
        "kms_key": "alias/millpond",
        "tag_mutability": "IMMUTABLE_WITH_EXCLUSION",
        "exclusions": ["latest*"],
        "tags": {"team": "platform"},
    },
}

CONFIGURATIONS: Final[dict[str, Variables]] = {
    "nothing": {},
    "one target": {"targets": [DEV]},
    "two accounts": {"targets": [DEV, PROD]},
    "two regions by one role": {"targets": [PROD, {**PROD, "name": "us", "region": "us-west-2", "read": True}]},
    "other partitions": {
        "targets": [
            {**DEV, "name": "cn", "region": "cn-north-1", "repository": {"kms_key": KEY}},
            {**DEV, "name": "gov", "region": "us-gov-west-1", "endpoint_url": "https://ecr-fips.us-gov-west-1.example"},
        ]
    },
    "keys": {
        "targets": [
            {**DEV, "name": f"k{index}", "repository_prefix": f"k{index}/{{upstream}}/", "repository": {"kms_key": key}}
            for index, key in enumerate((
                KEY,
                "alias/a/b",
                f"arn:aws:kms:us-east-1:111122223333:key/{KEY}",
                "arn:aws:kms:us-east-1:111122223333:alias/x",
            ))
        ]
    },
    "policies": {
        "targets": [{**DEV, "repository": {"lifecycle_policy_file": "@policy@", "policy_file": "@policy@"}}],
    },
    "upstreams of its own": {"targets": [DEV], "upstreams": ["docker.io", "registry.example.com"]},
    "ECR to pull from": {
        "targets": [DEV],
        "ecr_upstreams": {
            "public.ecr.aws": {},
            "111122223333.dkr.ecr.us-east-1.amazonaws.com": {},
            "company": {"url": "https://777788889999.dkr.ecr.eu-west-1.amazonaws.com", "role_arn": OTHER_ROLE},
            "ecr.example.com:8443": {"region": "eu-central-1"},
        },
    },
    "nothing but pulls": {"ecr_upstreams": {"public.ecr.aws": {"role_arn": OTHER_ROLE}}},
}  # fmt: skip


# Nothing installs it: there is no package of Debian, nor a Go module that builds by itself.
pytestmark = pytest.mark.skipif(find("terraform") is None, reason="not installed: terraform")


def planned(config: Path) -> dict[str, Any]:
    """The policies that `millpond ecr plan` prints, by identity."""
    document = json.loads(run([sys.executable, "-m", "proxy.cli", "ecr", "plan", "--json", "--config", str(config)]))
    return {entry["identity"]: entry["policy"] for entry in document["policies"]}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_policies_are_what_millpond_ecr_plan_prints_for_the_values_that_come_with_them(
    name: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"rules": [], "comment": "x" * 100}))  # as long as the shortest that ECR takes
    variables = json.loads(json.dumps(CONFIGURATIONS[name]).replace("@policy@", str(policy)))
    outputs = evaluated("plan", {**variables, "role_arn": MILLPOND}, tmp_path)
    values = yaml.safe_load(outputs["helm_values"])
    extra: dict[str, Any] = {
        upstream: {} for upstream in variables.get("upstreams", []) if upstream.startswith("registry.example")
    }
    if extra:
        values["config"].setdefault("upstreams", {}).update(extra)

    config = tmp_path / "millpond.yaml"
    config.write_text(yaml.safe_dump(values["config"]))
    own = {OWN_IDENTITY: json.loads(outputs["own_policy"])} if outputs.get("own_policy") else {}
    roles = {role: json.loads(text) for role, text in outputs["role_policies"].items()}
    assert {**own, **roles} == planned(config)

    account = helm.one(helm.render(values), "ServiceAccount")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": MILLPOND}


def test_with_pod_identity_the_values_have_no_annotation(tmp_path: Path) -> None:
    assert list(yaml.safe_load(evaluated("plan", {"targets": [DEV]}, tmp_path)["helm_values"])) == ["config"]


def test_irsa_lets_in_one_service_account_of_one_cluster(tmp_path: Path) -> None:
    variables = {"oidc_provider_arn": OIDC, "namespace": "caches", "targets": [DEV, PROD]}
    outputs = evaluated("millpond", variables, tmp_path, ("trust_policy", "tag_policies"))
    (statement,) = json.loads(outputs["trust_policy"])["Statement"]
    issuer = "oidc.eks.us-east-1.amazonaws.com/id/0123"
    assert statement["Principal"] == {"Federated": OIDC}
    assert statement["Action"] == ["sts:AssumeRoleWithWebIdentity"]
    assert statement["Condition"] == {
        "StringEquals": {
            f"{issuer}:aud": "sts.amazonaws.com",
            f"{issuer}:sub": "system:serviceaccount:caches:millpond",
        }
    }
    assert outputs["tag_policies"] == []


def test_pod_identity_lets_in_one_service_account_and_passes_tags_to_assumed_roles(tmp_path: Path) -> None:
    variables = {"pod_identity_cluster": "prod", "targets": [DEV, PROD]}
    outputs = evaluated("millpond", variables, tmp_path, ("trust_policy", "tag_policies"))
    (statement,) = json.loads(outputs["trust_policy"])["Statement"]
    assert statement["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert set(statement["Action"]) == {"sts:AssumeRole", "sts:TagSession"}
    assert statement["Condition"]["StringEquals"]["aws:RequestTag/kubernetes-service-account"] == "millpond"
    (tags,) = (json.loads(text)["Statement"] for text in outputs["tag_policies"])
    assert [(item["Action"], item["Resource"]) for item in tags] == [(["sts:TagSession"], [ROLE])]


def test_a_target_account_trusts_millponds_role_alone_and_allows_what_the_plan_says(tmp_path: Path) -> None:
    variables = {"millpond_role_arn": MILLPOND, "role_arn": ROLE, "kms_alias": "alias/millpond", "targets": [DEV, PROD]}
    outputs = evaluated("target", variables, tmp_path, ("arn", "policy", "trust_policy", "key_policy", "encrypted"))
    assert outputs["arn"] == {
        "partition": "aws", "account": "444455556666", "path": "/path/", "name": "millpond",
    }  # fmt: skip
    (trust,) = json.loads(outputs["trust_policy"])["Statement"]
    assert (trust["Principal"], "Condition" in trust) == ({"AWS": MILLPOND}, False)
    policy = json.loads(outputs["policy"])["Statement"]
    assert [statement["Sid"] for statement in policy] == ["LogIn", "PushprodX2d1X2eeuX5fa", "EncryptprodX2d1X2eeuX5fa"]
    owner, millpond = json.loads(outputs["key_policy"])["Statement"]
    assert owner["Principal"] == {"AWS": "arn:aws:iam::444455556666:root"}
    assert millpond["Principal"] == {"AWS": ROLE}
    assert millpond["Action"] == policy[-1]["Action"]
    assert outputs["encrypted"] is True


@pytest.mark.parametrize(
    ("module", "variables", "message"),
    [
        ("plan", {"targets": [{**DEV, "account": "1111"}]}, "An account has 12 digits"),
        ("plan", {"targets": [{**DEV, "region": "virginia"}]}, "A region is its code"),
        ("plan", {"targets": [{**DEV, "name": "My Target"}]}, "lower-case letters"),
        ("plan", {"targets": [DEV, DEV]}, "Two targets have the same name"),
        ("plan", {"targets": [{**DEV, "role_arn": "millpond"}]}, "a role's ARN"),
        ("plan", {"targets": [{**DEV, "repository": {"tag_mutability": "FROZEN"}}]}, "tag_mutability is MUTABLE"),
        (
            "plan",
            {"targets": [{**DEV, "repository": {"kms_key": f"arn:aws:kms:eu-west-1:111122223333:key/{KEY}"}}]},
            "kms_key is in another region",
        ),
        ("plan", {"ecr_upstreams": {"company": {"url": "https://ecr.example.com"}}}, "does not name a region"),
        ("plan", {"upstreams": []}, "Name at least one upstream"),
        ("millpond", {}, "Set one of oidc_provider_arn"),
        ("millpond", {"oidc_provider_arn": OIDC, "pod_identity_cluster": "c"}, "Set one of oidc_provider_arn"),
        ("millpond", {"oidc_provider_arn": "https://oidc.eks.us-east-1.amazonaws.com/id/0"}, "not an OIDC provider's"),
        ("millpond", {"pod_identity_cluster": "c", "service_account": "*"}, "a wildcard would let others in"),
        ("millpond", {"pod_identity_cluster": "c", "namespace": "*"}, "a wildcard would let others in"),
        ("millpond", {"pod_identity_cluster": "c", "name": "a b"}, "A role's name"),
        (
            "millpond",
            {
                "pod_identity_cluster": "c",
                "vpc_endpoints": {
                    "vpc_id": "v",
                    "subnet_ids": [],
                    "security_group_ids": ["s"],
                    "route_table_ids": ["r"],
                },
            },
            "at least one subnet",
        ),
        ("target", {"millpond_role_arn": MILLPOND, "role_arn": ROLE, "targets": [DEV]}, "No target and no upstream"),
        ("target", {"millpond_role_arn": "me", "role_arn": ROLE, "targets": [PROD]}, "not a role's ARN"),
        (
            "target",
            {"millpond_role_arn": MILLPOND, "role_arn": ROLE, "targets": [PROD], "kms_alias": "millpond"},
            "An alias begins with alias/",
        ),
    ],
)
def test_a_wrong_variable_is_refused_with_what_is_right(
    module: str, variables: Variables, message: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError) as refusal:
        evaluated(module, variables, tmp_path)
    assert message in str(refusal.value)


def test_terraform_fmt_has_nothing_to_change() -> None:
    done = terraform(TERRAFORM, "fmt", "-check", "-recursive")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_every_variable_and_output_says_what_it_is_and_every_variable_has_a_type(module: str) -> None:
    for name, variable in named(module, "variable").items():
        assert {"description", "type"} <= set(variable), name
    for name, output in named(module, "output").items():
        assert "description" in output, name


@pytest.mark.parametrize("module", MODULES)
def test_what_is_declared_is_used_and_what_is_used_is_declared(module: str) -> None:
    text = code(module)
    validations = re.findall(r"^variable.*?^}", text, flags=re.MULTILINE | re.DOTALL)
    used_elsewhere = text
    for block in validations:
        used_elsewhere = used_elsewhere.replace(block, "")
    assert set(re.findall(r"\bvar\.(\w+)", used_elsewhere)) == set(named(module, "variable"))
    assert set(re.findall(r"\bvar\.(\w+)", text)) == set(named(module, "variable"))
    assert set(re.findall(r"\blocal\.(\w+)", text)) == set(named(module, "locals"))
    assert set(re.findall(r"\bdata\.(aws_\w+\.\w+)", text)) == set(named(module, "data"))
    assert set(re.findall(r"(?<![.\w])(aws_\w+\.\w+)", text)) <= set(named(module, "resource"))
    assert {output for _, output in re.findall(r"\bmodule\.(plan)\.(\w+)", text)} <= set(named("plan", "output"))


@pytest.mark.parametrize("module", MODULES)
def test_versions_are_pinned_at_both_ends(module: str) -> None:
    terraform_block = next(body for body in hcl2.loads((TERRAFORM / module / "versions.tf").read_text())["terraform"])
    assert re.fullmatch(r'"?>= 1\.9, < 2\.0"?', terraform_block["required_version"])
    providers = terraform_block.get("required_providers", [])
    assert bool(providers) == (module != "plan"), "only plan runs without a provider"
    assert providers == [] or ">= 5.40, < 7.0" in str(providers[0]["aws"])


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_take_the_same_lists(module: str) -> None:
    mine, original = named(module, "variable"), named("plan", "variable")
    for name in ("targets", "ecr_upstreams", "upstreams"):
        assert mine[name]["type"] == original[name]["type"], name
        assert mine[name].get("default") == original[name].get("default"), name
    for call in named(module, "module").values():
        assert set(call) - OF_THE_PARSER - {"source"} <= set(original)


@pytest.mark.parametrize("page", ["deploy/terraform/README.md", "deploy/eks.md"])
def test_the_examples_call_the_modules_as_they_are(page: str) -> None:
    blocks = re.findall(r"^```hcl\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    calls = [call for block in blocks for item in hcl2.loads(block).get("module", []) for call in item.values()]
    assert calls
    for call in calls:
        module = Path(call["source"].strip('"')).name
        assert (ROOT / call["source"].strip('"')).is_dir()
        variables = named(module, "variable")
        needed = {name for name, body in variables.items() if "default" not in body}
        assert needed <= set(call) - OF_THE_PARSER - {"source", "providers"} <= set(variables)
    for module, output in re.findall(r"module\.(millpond)\w*\.(\w+)", "\n".join(blocks)):
        assert output in named(module, "output")
