output "role_arn" {
  description = "Millpond's role: millpond_role_arn of the module target."
  value       = aws_iam_role.this.arn
}

output "helm_values" {
  description = "Values for the chart, as YAML: terraform output -raw <name> > aws.yaml, then helm ... --values aws.yaml."
  value       = module.plan.helm_values
}

output "policy" {
  description = "The role's policy as JSON, to compare with what `millpond ecr plan` prints. Null where it needs none."
  value       = module.plan.own_policy
}

output "target_role_arns" {
  description = "The roles that the module target has to make, one each, in the account that the ARN names."
  value       = module.plan.role_arns
}

output "kms_key_policy_statement" {
  description = "For a KMS key in this account whose policy does not leave permissions to IAM: the statement to add, as JSON."
  value = jsonencode({
    Sid       = "MillpondCreatesEncryptedRepositories"
    Effect    = "Allow"
    Principal = { AWS = aws_iam_role.this.arn }
    Action    = ["kms:CreateGrant", "kms:DescribeKey"]
    Resource  = "*"
    Condition = { StringLike = { "kms:ViaService" = "ecr.*.amazonaws.com*" } }
  })
}
