module "plan" {
  source = "../plan"

  targets       = var.targets
  ecr_upstreams = var.ecr_upstreams
  upstreams     = var.upstreams
  role_arn      = var.pod_identity_cluster == null ? aws_iam_role.this.arn : null
}

resource "aws_iam_role" "this" {
  name                 = var.name
  description          = "Millpond, ${var.namespace}/${var.service_account}"
  assume_role_policy   = local.trust_policy
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "this" {
  count = module.plan.own_policy == null ? 0 : 1

  name   = "millpond"
  role   = aws_iam_role.this.id
  policy = module.plan.own_policy

  lifecycle {
    precondition {
      # IAM's quota for all inline policies of a role; those of session tags need their share.
      condition     = length(module.plan.own_policy) <= 9000
      error_message = "The policy is too long for a role; give targets of other accounts a role_arn, or fewer upstreams."
    }
  }
}

resource "aws_iam_role_policy" "session_tags" {
  count = length(local.tag_policies)

  name   = "millpond-session-tags"
  role   = aws_iam_role.this.id
  policy = local.tag_policies[count.index]
}

resource "aws_eks_pod_identity_association" "this" {
  count = var.pod_identity_cluster == null ? 0 : 1

  cluster_name    = var.pod_identity_cluster
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.this.arn
  tags            = var.tags
}
