variable "name" {
  description = "Name of Millpond's role, and of what belongs to it."
  type        = string
  default     = "millpond"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_+=,.@-]{1,64}$", var.name))
    error_message = "A role's name has 1 to 64 letters, digits and _+=,.@- characters."
  }
}

variable "namespace" {
  description = "Namespace that the chart is installed in."
  type        = string
  default     = "millpond"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace has lower-case letters, digits and dashes; a wildcard would let others in."
  }
}

variable "service_account" {
  description = "The chart's service account: serviceAccount.name, else the release's name."
  type        = string
  default     = "millpond"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", var.service_account))
    error_message = "A service account has lower-case letters, digits, dots and dashes; a wildcard would let others in."
  }
}

variable "oidc_provider_arn" {
  description = "For IRSA: the cluster's OIDC provider, arn:aws:iam::111122223333:oidc-provider/oidc.eks.<region>.amazonaws.com/id/<id>."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^arn:aws(-[a-z]+)*:iam::[0-9]{12}:oidc-provider/.+$", coalesce(var.oidc_provider_arn, "arn:aws:iam::000000000000:oidc-provider/none")))
    error_message = "This is not an OIDC provider's ARN; the issuer's URL is another thing."
  }

  validation {
    condition     = (var.oidc_provider_arn == null) != (var.pod_identity_cluster == null)
    error_message = "Set one of oidc_provider_arn (IRSA) and pod_identity_cluster (Pod Identity)."
  }
}

variable "pod_identity_cluster" {
  description = "For Pod Identity: the cluster's name. The cluster needs the add-on eks-pod-identity-agent."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the role, where the account demands one."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that this module makes."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "vpc_endpoints" {
  description = "Makes VPC endpoints for ecr.api, ecr.dkr, sts (interfaces, with private DNS) and s3 (gateway) in the provider's region. The security groups must let port 443 in from nodes and pods. Null makes none."
  type = object({
    vpc_id             = string
    subnet_ids         = list(string)
    security_group_ids = list(string)
    route_table_ids    = list(string)
  })
  default = null

  validation {
    condition = var.vpc_endpoints == null ? true : alltrue([
      for ids in [var.vpc_endpoints.subnet_ids, var.vpc_endpoints.security_group_ids, var.vpc_endpoints.route_table_ids] : length(ids) > 0
    ])
    error_message = "Endpoints need at least one subnet, one security group and one route table."
  }
}

variable "targets" {
  description = "As ecr.targets of Millpond's configuration, one entry an account and region; platforms is all, pulled, or platforms with commas between them."
  type = list(object({
    name              = string
    account           = string
    region            = string
    role_arn          = optional(string)
    endpoint_url      = optional(string)
    repository_prefix = optional(string, "{upstream}/")
    platforms         = optional(string, "all")
    read              = optional(bool, true)
    upstreams         = optional(list(string))
    repository = optional(object({
      kms_key               = optional(string)
      scan_on_push          = optional(bool, true)
      tag_mutability        = optional(string, "MUTABLE")
      exclusions            = optional(list(string), [])
      lifecycle_policy_file = optional(string)
      policy_file           = optional(string)
      tags                  = optional(map(string), {})
    }), {})
  }))
  default  = []
  nullable = false
}

variable "ecr_upstreams" {
  description = "Upstreams with auth: ecr, by their names in Millpond's configuration; url is https:// and the name where it is left out."
  type = map(object({
    url      = optional(string)
    region   = optional(string)
    role_arn = optional(string)
  }))
  default  = {}
  nullable = false
}

variable "upstreams" {
  description = "Names of the upstreams whose images are pushed where a target does not list its own. Each must be in Millpond's configuration."
  type        = list(string)
  default     = ["docker.io", "ghcr.io", "registry.k8s.io", "quay.io"]
  nullable    = false

  validation {
    condition     = length(var.upstreams) > 0
    error_message = "Name at least one upstream, such as docker.io."
  }
}
