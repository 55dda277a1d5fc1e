# Pure: no resource and no data source, so that tests evaluate it without a provider.

locals {
  issuer = one(regex("oidc-provider/(.+)$", coalesce(var.oidc_provider_arn, "oidc-provider/none")))

  irsa = {
    Sid       = "ServiceAccountOfMillpond"
    Effect    = "Allow"
    Principal = { Federated = var.oidc_provider_arn }
    Action    = ["sts:AssumeRoleWithWebIdentity"]
    Condition = {
      StringEquals = {
        "${local.issuer}:aud" = "sts.amazonaws.com"
        "${local.issuer}:sub" = "system:serviceaccount:${var.namespace}:${var.service_account}"
      }
    }
  }

  pod_identity = {
    Sid       = "ServiceAccountOfMillpond"
    Effect    = "Allow"
    Principal = { Service = "pods.eks.amazonaws.com" }
    Action    = ["sts:AssumeRole", "sts:TagSession"]
    Condition = {
      StringEquals = {
        "aws:RequestTag/eks-cluster-name"           = var.pod_identity_cluster
        "aws:RequestTag/kubernetes-namespace"       = var.namespace
        "aws:RequestTag/kubernetes-service-account" = var.service_account
      }
    }
  }

  trust_policy = var.pod_identity_cluster == null ? jsonencode({ Version = "2012-10-17", Statement = [local.irsa] }) : jsonencode({ Version = "2012-10-17", Statement = [local.pod_identity] })

  # The tags of a Pod Identity session go along into every role that it assumes, which takes this permission as well.
  # Apart from the policy that `millpond ecr plan` prints: Millpond itself passes no tags.
  tag_policies = [
    for roles in [module.plan.role_arns] : jsonencode({
      Version   = "2012-10-17"
      Statement = [{ Sid = "PassSessionTags", Effect = "Allow", Action = ["sts:TagSession"], Resource = roles }]
    }) if var.pod_identity_cluster != null && length(roles) > 0
  ]
}
