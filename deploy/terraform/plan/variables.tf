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

  validation {
    condition     = alltrue([for target in var.targets : can(regex("^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$", target.name))])
    error_message = "A target's name has lower-case letters, digits and dashes, such as prod."
  }

  validation {
    condition     = length(distinct(var.targets[*].name)) == length(var.targets)
    error_message = "Two targets have the same name; give each its own."
  }

  validation {
    condition     = alltrue([for target in var.targets : can(regex("^[0-9]{12}$", target.account))])
    error_message = "An account has 12 digits; write them in quotes, \"111122223333\"."
  }

  validation {
    condition     = alltrue([for target in var.targets : can(regex("^[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}$", target.region))])
    error_message = "A region is its code, such as us-east-1."
  }

  validation {
    condition = alltrue([
      for target in var.targets : can(regex("^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$", target.role_arn))
      if target.role_arn != null
    ])
    error_message = "A role_arn is a role's ARN, arn:aws:iam::111122223333:role/name."
  }

  validation {
    condition = alltrue([
      for target in var.targets : contains(["MUTABLE", "IMMUTABLE", "IMMUTABLE_WITH_EXCLUSION", "MUTABLE_WITH_EXCLUSION"], target.repository.tag_mutability)
    ])
    error_message = "tag_mutability is MUTABLE, IMMUTABLE, or either _WITH_EXCLUSION."
  }

  validation {
    condition = alltrue([
      for target in var.targets : split(":", target.repository.kms_key)[3] == target.region
      if startswith(coalesce(target.repository.kms_key, "-"), "arn:")
    ])
    error_message = "A target's kms_key is in another region; ECR takes one of the target's own."
  }
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

  validation {
    condition = alltrue([
      for name, upstream in var.ecr_upstreams : upstream.region != null || can(regex("(public[.]ecr[.]aws|[0-9]{12}[.]dkr[.-]ecr(-fips)?[.][a-z0-9-]+[.])", coalesce(upstream.url, "https://${name}")))
    ])
    error_message = "The host of this upstream does not name a region; write region, such as us-east-1."
  }
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

variable "role_arn" {
  description = "With IRSA: Millpond's role, for the annotation of its service account. Null with Pod Identity, which needs none."
  type        = string
  default     = null
}
