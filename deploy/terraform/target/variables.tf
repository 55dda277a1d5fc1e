variable "millpond_role_arn" {
  description = "The role that Millpond runs with, output role_arn of the module millpond. It must exist before this is applied."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$", var.millpond_role_arn))
    error_message = "This is not a role's ARN, arn:aws:iam::111122223333:role/millpond."
  }
}

variable "role_arn" {
  description = "The role that this makes, as role_arn of the targets names it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$", var.role_arn))
    error_message = "This is not a role's ARN, arn:aws:iam::444455556666:role/millpond."
  }

  validation {
    condition = anytrue(concat(
      [for target in var.targets : target.role_arn == var.role_arn],
      [for upstream in values(var.ecr_upstreams) : upstream.role_arn == var.role_arn],
    ))
    error_message = "No target and no upstream uses this role; give the same lists as to the module millpond."
  }
}

variable "kms_alias" {
  description = "Makes a KMS key in the provider's region, with this alias, for repository.kms_key: alias/millpond. Null makes none."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^alias/[A-Za-z0-9/_-]{1,250}$", coalesce(var.kms_alias, "alias/none"))) && !startswith(coalesce(var.kms_alias, "alias/none"), "alias/aws/")
    error_message = "An alias begins with alias/, and alias/aws/ is AWS' own."
  }
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

variable "targets" {
  description = "The same list as for the module millpond; those with this role_arn count."
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
  description = "The same map as for the module millpond; those with this role_arn count."
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
