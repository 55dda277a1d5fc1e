# What `millpond ecr plan` prints, computed from the same configuration. No provider: nobody is asked, and it runs
# without a network. proxy/ecr/plan.py is the original; tests/deploy/test_terraform.py compares the two.

locals {
  # Each is called for every image: what is there, the upload, the manifest, and the first look whether all is done.
  push = [
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
    "ecr:CreateRepository",
  ]
  pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]

  targets = [
    for target in var.targets : merge(target, {
      identity  = coalesce(target.role_arn, "own")
      upstreams = coalesce(target.upstreams, var.upstreams)
      partition = startswith(target.region, "cn-") ? "aws-cn" : startswith(target.region, "us-gov-") ? "aws-us-gov" : "aws"
      # The name goes to the end where the prefix does not place it.
      template = strcontains(target.repository_prefix, "{name}") ? target.repository_prefix : "${target.repository_prefix}{name}"
      sid      = replace(replace(replace(target.name, "-", "X2d"), ".", "X2e"), "_", "X5f")
    })
  ]

  addresses = { for name, upstream in var.ecr_upstreams : name => coalesce(upstream.url, "https://${name}") }
  logins = [
    for name, upstream in var.ecr_upstreams : {
      identity = coalesce(upstream.role_arn, "own")
      public   = can(regex("^https?://public[.]ecr[.]aws(:[0-9]+)?(/|$)", local.addresses[name]))
      account  = try(regex("://([0-9]{12})[.]dkr[.-]ecr", local.addresses[name])[0], "*")
      region   = try(coalesce(upstream.region, try(regex("[.]dkr[.-]ecr(?:-fips)?[.]([a-z0-9-]+)[.]", local.addresses[name])[0], null)), "us-east-1")
      sid      = replace(replace(replace(replace(name, "-", "X2d"), ".", "X2e"), "_", "X5f"), ":", "X3a")
    }
  ]

  roles = distinct([for user in concat(local.targets, local.logins) : user.identity if user.identity != "own"])
}

locals {
  pushes = [
    for target in local.targets : {
      Sid    = "Push${target.sid}"
      Effect = "Allow"
      Action = sort(concat(
        local.push,
        [for action in ["ecr:GetDownloadUrlForLayer"] : action if target.read],
        [for action in ["ecr:TagResource"] : action if length(target.repository.tags) > 0],
        [for action in ["ecr:GetLifecyclePolicy", "ecr:PutLifecyclePolicy"] : action if target.repository.lifecycle_policy_file != null],
        [for action in ["ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy"] : action if target.repository.policy_file != null],
      ))
      Resource = [
        for name in sort(distinct([
          for upstream in target.upstreams : replace(replace(target.template, "{upstream}", upstream), "{name}", "*")
        ])) : "arn:${target.partition}:ecr:${target.region}:${target.account}:repository/${name}"
      ]
    }
  ]

  # IAM does not know a key by its alias: the resource is every key, the condition picks the one.
  keys = [
    for target in local.targets : [
      for key in [coalesce(target.repository.kms_key, "-")] : {
        Sid    = "Encrypt${target.sid}"
        Effect = "Allow"
        Action = ["kms:CreateGrant", "kms:DescribeKey"]
        Resource = [
          can(regex("alias/", key)) && startswith(key, "arn:") ? replace(key, "/alias/.*$/", "key/*") :
          can(regex("alias/", key)) ? "arn:${target.partition}:kms:${target.region}:${target.account}:key/*" :
          startswith(key, "arn:") ? key : "arn:${target.partition}:kms:${target.region}:${target.account}:key/${key}"
        ]
        Condition = merge(
          { StringLike = { "kms:ViaService" = "ecr.${target.region}.amazonaws.com*" } },
          [for alias in regexall("alias/.*$", key) : { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = alias } }]...
        )
      } if key != "-"
    ]
  ]

  statements = {
    for identity in concat(["own"], local.roles) : identity => concat(
      [
        for resources in [local.roles] : { Sid = "AssumeRoles", Effect = "Allow", Action = ["sts:AssumeRole"], Resource = resources }
        if identity == "own" && length(resources) > 0
      ],
      [
        for action in ["ecr:GetAuthorizationToken"] : { Sid = "LogIn", Effect = "Allow", Action = [action], Resource = ["*"] }
        if anytrue([for user in concat(local.targets, local.logins) : user.identity == identity && !try(user.public, false)])
      ],
      [
        for actions in [["ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"]] : { Sid = "LogInPublic", Effect = "Allow", Action = actions, Resource = ["*"] }
        if anytrue([for login in local.logins : login.identity == identity && login.public])
      ],
      flatten([for index, target in local.targets : concat([local.pushes[index]], local.keys[index]) if target.identity == identity]),
      [
        for login in local.logins : {
          Sid      = "Pull${login.sid}"
          Effect   = "Allow"
          Action   = local.pull
          Resource = ["arn:${startswith(login.region, "cn-") ? "aws-cn" : startswith(login.region, "us-gov-") ? "aws-us-gov" : "aws"}:ecr:${login.region}:${login.account}:repository/*"]
        } if login.identity == identity && !login.public
      ],
    )
  }
}

locals {
  # Millpond's own words for all of it. What is null is Millpond's default and is left out.
  config = merge(
    {
      ecr = {
        targets = [
          for index, target in var.targets : merge(
            { for key, value in {
              name              = target.name
              account           = target.account
              region            = target.region
              role_arn          = target.role_arn
              endpoint_url      = target.endpoint_url
              repository_prefix = target.repository_prefix
            } : key => value if value != null },
            {
              read      = target.read
              upstreams = local.targets[index].upstreams
              repository = merge(
                { for key, value in {
                  kms_key               = target.repository.kms_key
                  tag_mutability        = target.repository.tag_mutability
                  lifecycle_policy_file = target.repository.lifecycle_policy_file
                  policy_file           = target.repository.policy_file
                } : key => value if value != null },
                {
                  scan_on_push = target.repository.scan_on_push
                  exclusions   = target.repository.exclusions
                  tags         = target.repository.tags
                }
              )
            },
            concat(
              [for platforms in [target.platforms] : { platforms = platforms } if contains(["all", "pulled"], platforms)],
              [for platforms in [target.platforms] : { platforms = split(",", replace(platforms, " ", "")) } if !contains(["all", "pulled"], platforms)],
            )...
          )
        ]
      }
    },
    [for upstreams in [var.ecr_upstreams] : {
      upstreams = {
        for name, upstream in upstreams : name => merge({ auth = "ecr" }, { for key, value in upstream : key => value if value != null })
      }
    } if length(upstreams) > 0]...
  )
}
