module "plan" {
  source = "../plan"

  targets       = var.targets
  ecr_upstreams = var.ecr_upstreams
  upstreams     = var.upstreams
}

data "aws_caller_identity" "current" {}

resource "aws_iam_role" "this" {
  name                 = local.arn.name
  path                 = local.arn.path
  description          = "Assumed by Millpond, ${var.millpond_role_arn}"
  assume_role_policy   = local.trust_policy
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags

  lifecycle {
    precondition {
      condition     = data.aws_caller_identity.current.account_id == local.arn.account
      error_message = "The provider is logged in to another account than role_arn names."
    }
  }
}

resource "aws_iam_role_policy" "this" {
  name   = "millpond"
  role   = aws_iam_role.this.id
  policy = local.policy

  lifecycle {
    precondition {
      # IAM's quota for all inline policies of a role.
      condition     = length(local.policy) <= 10240
      error_message = "The policy is too long for a role; use a second role for some of the targets."
    }
  }
}

resource "aws_kms_key" "this" {
  count = var.kms_alias == null ? 0 : 1

  description         = "Repositories that Millpond creates"
  enable_key_rotation = true
  policy              = local.key_policy
  tags                = var.tags

  # KMS refuses a policy that names a role which is not there yet.
  depends_on = [aws_iam_role.this]
}

resource "aws_kms_alias" "this" {
  count = var.kms_alias == null ? 0 : 1

  name          = var.kms_alias
  target_key_id = aws_kms_key.this[count.index].key_id
}
