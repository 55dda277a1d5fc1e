output "own_policy" {
  description = "The policy of the identity that Millpond runs with, as JSON. Null where it needs none."
  value       = one([for statements in [local.statements["own"]] : jsonencode({ Version = "2012-10-17", Statement = statements }) if length(statements) > 0])
}

output "role_policies" {
  description = "The policy of each role that Millpond assumes, as JSON, by the role's ARN."
  value       = { for role in local.roles : role => jsonencode({ Version = "2012-10-17", Statement = local.statements[role] }) }
}

output "role_arns" {
  description = "The roles that Millpond assumes."
  value       = local.roles
}


output "helm_values" {
  description = "Values for the chart, as YAML: the service account's annotation, and config."
  value = yamlencode(merge(
    { config = local.config },
    [for arn in [coalesce(var.role_arn, "-")] : { serviceAccount = { annotations = { "eks.amazonaws.com/role-arn" = arn } } } if arn != "-"]...
  ))
}
