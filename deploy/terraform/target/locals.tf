# Pure: no resource and no data source, so that tests evaluate it without a provider.

locals {
  arn       = regex("^arn:(?P<partition>aws[a-z-]*):iam::(?P<account>[0-9]{12}):role(?P<path>/(?:.*/)?)(?P<name>[^/]+)$", var.role_arn)
  policy    = module.plan.role_policies[var.role_arn]
  encrypted = anytrue([for target in var.targets : target.role_arn == var.role_arn && target.repository.kms_key != null])

  # No external id: Millpond sends none, and only one role of one company is let in. Session tags: what Millpond runs as
  # with EKS Pod Identity has some, and they go along.
  trust_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Millpond"
      Effect    = "Allow"
      Principal = { AWS = var.millpond_role_arn }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
    }]
  })

  # ECR, on behalf of whoever creates a repository, has the key described and two grants made on it.
  key_statement = {
    Sid       = "MillpondCreatesEncryptedRepositories"
    Effect    = "Allow"
    Principal = { AWS = var.role_arn }
    Action    = ["kms:CreateGrant", "kms:DescribeKey"]
    Resource  = "*"
    Condition = { StringLike = { "kms:ViaService" = "ecr.*.amazonaws.com*" } }
  }

  key_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      # Without it nobody could ever change the key again.
      { Sid = "Account", Effect = "Allow", Principal = { AWS = "arn:${local.arn.partition}:iam::${local.arn.account}:root" }, Action = "kms:*", Resource = "*" },
      local.key_statement,
    ]
  })
}
