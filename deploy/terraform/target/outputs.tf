output "role_arn" {
  description = "The role, as role_arn of Millpond's targets names it."
  value       = aws_iam_role.this.arn
}

output "policy" {
  description = "The role's policy as JSON, to compare with what `millpond ecr plan` prints."
  value       = local.policy
}

output "kms_key_arn" {
  description = "The key that was made. Null without kms_alias."
  value       = one(aws_kms_key.this[*].arn)
}

output "kms_key_policy_statement" {
  description = "For a KMS key of your own whose policy does not leave permissions to IAM: the statement to add, as JSON. Null where no target is encrypted by KMS."
  value       = local.encrypted ? jsonencode(local.key_statement) : null
}
